//! Container logs: the runtime's log format read, filtered, followed.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use k8s_cri::v1 as cri;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::{Body, Failure, Query};
use crate::cri::{Cri, LABEL_CONTAINER_NAME};
use crate::pod::container::log_path;
use crate::pod::info;
use crate::pod::manager::IndexedPod;
use crate::pod::sandbox::log_directory_name;
use crate::pod::worker::Shared;

/// Bytes read from a log at once, and how many such pieces may wait for a
/// slow reader.
const PIECE: usize = 32 << 10;
const QUEUE: usize = 4;
/// Longest line kept together; the runtime splits lines at 16 KiB.
const MAX_LINE: usize = 256 << 10;
/// A followed log is looked at this often: soon after news, seldom when quiet.
const FOLLOW_FIRST: Duration = Duration::from_millis(50);
const FOLLOW_LONGEST: Duration = Duration::from_millis(800);

/// What the caller asked for.
#[derive(Debug, Clone, Default)]
struct Options {
    follow: bool,
    timestamps: bool,
    since: Option<Timestamp>,
    tail: Option<u64>,
    limit: Option<u64>,
    stream: Option<&'static str>,
}

impl Options {
    fn read(query: &Query, now: Timestamp) -> Result<Self, Failure> {
        let bad = |name: &str| Failure(StatusCode::BAD_REQUEST, format!("invalid value of {name}"));
        let number = |name: &str| match query.get(name).filter(|v| !v.is_empty()) {
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| bad(name)),
            None => Ok(None),
        };
        let since = match (number("sinceSeconds")?, query.get("sinceTime")) {
            (Some(seconds), _) => {
                let seconds = i64::try_from(seconds).map_err(|_| bad("sinceSeconds"))?;
                let span = jiff::SignedDuration::from_secs(seconds);
                Some(now.checked_sub(span).unwrap_or(Timestamp::MIN))
            }
            (None, Some(text)) if !text.is_empty() => {
                Some(text.parse().map_err(|_| bad("sinceTime"))?)
            }
            _ => None,
        };
        Ok(Self {
            follow: query.flag(&["follow"]),
            timestamps: query.flag(&["timestamps"]),
            since,
            tail: number("tailLines")?,
            limit: number("limitBytes")?,
            stream: match query.get("stream") {
                Some("Stdout") => Some("stdout"),
                Some("Stderr") => Some("stderr"),
                _ => None,
            },
        })
    }
}

/// The answer to a request for logs.
pub(super) async fn respond(
    shared: &Arc<Shared>,
    pod: &IndexedPod,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Failure> {
    let options = Options::read(query, Timestamp::now())?;
    let (id, attempt) = choose(shared, pod, container, query.flag(&["previous"])).await?;
    let path = shared
        .sandbox
        .log_dir
        .join(log_directory_name(&pod.pod))
        .join(log_path(container, attempt));
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reader = Reader {
        cri: shared.cri.clone(),
        id,
        path,
        sender,
        filter: Filter::new(options.clone()),
        options,
    };
    tokio::spawn(reader.run());
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        let piece: Bytes = receiver.recv().await?;
        Some((Ok(Frame::data(piece)), receiver))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed());
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain"),
    );
    Ok(response)
}

/// Id and attempt of the container whose log is wanted.
async fn choose(
    shared: &Shared,
    pod: &IndexedPod,
    container: &str,
    previous: bool,
) -> Result<(String, u32), Failure> {
    let name = info::name(&pod.pod);
    let mut list: Vec<cri::Container> = shared
        .cri
        .list_containers(Some(info::uid(&pod.pod)))
        .await?
        .into_iter()
        .filter(|c| c.labels.get(LABEL_CONTAINER_NAME).map(String::as_str) == Some(container))
        .collect();
    let attempt = |c: &cri::Container| c.metadata.as_ref().map_or(0, |m| m.attempt);
    list.sort_by_key(|c| std::cmp::Reverse((attempt(c), c.created_at)));
    let bad = |text: String| Failure(StatusCode::BAD_REQUEST, text);
    // A container that was made but not started has no log of its own yet.
    let begun = |c: &&cri::Container| c.state() != cri::ContainerState::ContainerCreated;
    let mut begun = list.iter().filter(begun);
    if previous {
        return begun
            .nth(1)
            .map(|c| (c.id.clone(), attempt(c)))
            .ok_or_else(|| {
                bad(format!(
                    "previous terminated container \"{container}\" in pod \"{name}\" not found"
                ))
            });
    }
    begun
        .next()
        .map(|c| (c.id.clone(), attempt(c)))
        .ok_or_else(|| {
            let known = info::find_container(&pod.pod, container).is_some()
                || info::spec(&pod.pod)
                    .ephemeral_containers()
                    .iter()
                    .any(|c| c.name == container);
            if !known {
                return bad(format!("container {container} is not valid for pod {name}"));
            }
            let reason = waiting_reason(pod, container);
            bad(format!(
                "container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"
            ))
        })
}

fn waiting_reason(pod: &IndexedPod, container: &str) -> String {
    let status = pod.pod.status.as_ref();
    let lists = [
        status.and_then(|s| s.container_statuses.as_ref()),
        status.and_then(|s| s.init_container_statuses.as_ref()),
        status.and_then(|s| s.ephemeral_container_statuses.as_ref()),
    ];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == container)
        .and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone())
        .unwrap_or_else(|| "ContainerCreating".to_owned())
}

/// Turns the runtime's lines into what the caller sees.
struct Filter {
    options: Options,
    /// The last line was a piece of a longer one.
    in_line: bool,
    sent: u64,
}

impl Filter {
    fn new(options: Options) -> Self {
        Self {
            options,
            in_line: false,
            sent: 0,
        }
    }

    /// Whether the caller has got all that it wants.
    fn full(&self) -> bool {
        self.options.limit.is_some_and(|limit| self.sent >= limit)
    }

    /// Appends what is to be shown of one line (`TIME STREAM TAG TEXT`).
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tag)) = (parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        let text = parts.next().unwrap_or_default();
        if self
            .options
            .stream
            .is_some_and(|wanted| wanted.as_bytes() != stream)
        {
            return;
        }
        if let Some(since) = self.options.since {
            let parsed = std::str::from_utf8(time)
                .ok()
                .and_then(|t| t.parse::<Timestamp>().ok());
            if parsed.is_some_and(|t| t < since) {
                return;
            }
        }
        let before = out.len();
        if self.options.timestamps && !self.in_line {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        self.in_line = tag.split(|b| *b == b':').any(|t| t == b"P");
        if !self.in_line {
            out.push(b'\n');
        }
        let added = (out.len() - before) as u64;
        if let Some(limit) = self.options.limit {
            let room = limit.saturating_sub(self.sent);
            if added > room {
                out.truncate(before + usize::try_from(room).unwrap_or(usize::MAX));
            }
        }
        self.sent += (out.len() - before) as u64;
    }
}

struct Reader {
    cri: Cri,
    id: String,
    path: PathBuf,
    sender: mpsc::Sender<Bytes>,
    options: Options,
    filter: Filter,
}

impl Reader {
    async fn run(mut self) {
        if let Err(error) = self.read().await {
            tracing::debug!(path = %self.path.display(), %error, "log not read to its end");
        }
    }

    async fn read(&mut self) -> std::io::Result<()> {
        let mut file = match File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.options.follow => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(lines) = self.options.tail {
            let start = tail_start(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        let mut rest = Vec::new();
        let mut pause = FOLLOW_FIRST;
        let mut ended = false;
        loop {
            if self.drain(&mut file, &mut rest).await? {
                pause = FOLLOW_FIRST;
            }
            if self.filter.full() || self.sender.is_closed() || !self.options.follow || ended {
                return Ok(());
            }
            if let Some(next) = rotated(&file, &self.path).await {
                // What came last into the old file is read before the new.
                self.drain(&mut file, &mut rest).await?;
                rest.clear();
                file = next;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.sender.closed() => return Ok(()),
            }
            if pause == FOLLOW_LONGEST || pause == FOLLOW_FIRST {
                // One more pass after the end: the last lines may be late.
                ended = !self.running().await;
            }
            pause = (pause * 2).min(FOLLOW_LONGEST);
        }
    }

    /// Whether the container may still write.
    async fn running(&self) -> bool {
        match self.cri.container_status(&self.id).await {
            Ok(status) => status.state() == cri::ContainerState::ContainerRunning,
            Err(error) => !error.is_not_found(),
        }
    }

    /// Sends all that the file has; whether there was anything.
    async fn drain(&mut self, file: &mut File, rest: &mut Vec<u8>) -> std::io::Result<bool> {
        let mut any = false;
        let mut buffer = vec![0; PIECE];
        loop {
            let read = file.read(&mut buffer).await?;
            if read == 0 {
                return Ok(any);
            }
            any = true;
            rest.extend_from_slice(&buffer[..read]);
            let mut out = Vec::with_capacity(rest.len());
            let mut begin = 0;
            while let Some(length) = rest[begin..].iter().position(|b| *b == b'\n') {
                self.filter.line(&rest[begin..begin + length], &mut out);
                begin += length + 1;
                if self.filter.full() {
                    break;
                }
            }
            rest.drain(..begin);
            if rest.len() > MAX_LINE {
                rest.clear();
            }
            if !out.is_empty() && self.sender.send(Bytes::from(out)).await.is_err() {
                return Ok(any);
            }
            if self.filter.full() {
                return Ok(any);
            }
        }
    }
}

/// The file now at `path`, if it is another than the open one.
async fn rotated(open: &File, path: &Path) -> Option<File> {
    use std::os::unix::fs::MetadataExt as _;
    let old = open.metadata().await.ok()?;
    let new = tokio::fs::metadata(path).await.ok()?;
    if (old.dev(), old.ino()) == (new.dev(), new.ino()) {
        return None;
    }
    File::open(path).await.ok()
}

/// Offset at which the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 16 << 10;
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut seen = 0;
    let mut buffer = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(begin)).await?;
        buffer.clear();
        (&mut *file)
            .take(end - begin)
            .read_to_end(&mut buffer)
            .await?;
        for (index, byte) in buffer.iter().enumerate().rev() {
            let offset = begin + index as u64;
            // The newline that ends the file begins no line.
            if *byte == b'\n' && offset + 1 < length {
                seen += 1;
                if seen == lines {
                    return Ok(offset + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n\
        2026-01-01T00:00:01Z stderr P tw\n\
        2026-01-01T00:00:01Z stderr F o\n\
        2026-01-01T00:00:02Z stdout F three  x\n";

    fn show(query: &str) -> String {
        let now = "2026-01-01T00:00:03Z".parse().unwrap();
        let mut filter = Filter::new(Options::read(&Query::parse(query), now).unwrap());
        let mut out = Vec::new();
        for line in LOG.lines() {
            filter.line(line.as_bytes(), &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_filtered() {
        for (query, want) in [
            ("", "one\ntwo\nthree  x\n"),
            ("sinceSeconds=2", "two\nthree  x\n"),
            ("sinceTime=2026-01-01T00:00:02Z", "three  x\n"),
            ("limitBytes=5", "one\nt"),
            ("stream=Stdout", "one\nthree  x\n"),
            (
                "timestamps=true",
                "2026-01-01T00:00:00Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:02Z three  x\n",
            ),
        ] {
            assert_eq!(show(query), want, "{query}");
        }
        assert!(Options::read(&Query::parse("tailLines=x"), Timestamp::UNIX_EPOCH).is_err());
    }

    #[tokio::test]
    async fn tails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let text: String = (0..5000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&path, &text).unwrap();
        for (lines, want) in [(0, ""), (1, "line 4999\n"), (2, "line 4998\nline 4999\n")] {
            let mut file = File::open(&path).await.unwrap();
            let start = tail_start(&mut file, lines).await.unwrap();
            assert_eq!(&text[usize::try_from(start).unwrap()..], want);
        }
        let mut file = File::open(&path).await.unwrap();
        assert_eq!(tail_start(&mut file, 99_999).await.unwrap(), 0);
        let start = tail_start(&mut file, 4000).await.unwrap();
        assert!(text[usize::try_from(start).unwrap()..].starts_with("line 1000\n"));
    }
}
