//! Delay from sending a create to seeing its event, for many watchers.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Result;
use crate::client::{Connection, Lines};
use crate::load::{Load, config_map};
use crate::report::Report;
use crate::stats::Samples;

/// Watchers, each with a connection of its own.
const WATCHERS: usize = 100;
/// Time between creates: 20 a second.
const PERIOD: Duration = Duration::from_millis(50);
/// The start of the names that watchers look for.
const PREFIX: &str = "watched-";
/// How long the last events may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Creates objects while all watchers look on.
pub async fn measure(load: &Load<'_>, report: &mut Report) -> Result {
    let creates = load.scale.count(400, 40);
    crate::say(&format!(
        "creating {creates} objects before {WATCHERS} watchers"
    ));
    let access = &load.target.access;
    let collection = Load::collection();
    let mut writer = Connection::open(access).await?;
    let list = writer.get(&format!("{collection}?limit=1")).await?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    let path = format!("{collection}?watch=1&resourceVersion={revision}");
    let sent: Arc<Vec<OnceLock<Instant>>> =
        Arc::new((0..creates).map(|_| OnceLock::new()).collect());
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut connection = Connection::open(access).await?;
        let lines = Lines::watch(&mut connection, &path).await?;
        watchers.spawn(look(connection, lines, sent.clone()));
    }
    let mut clock = tokio::time::interval(PERIOD);
    for (index, moment) in sent.iter().enumerate() {
        clock.tick().await;
        let body = config_map(&format!("{PREFIX}{index}"));
        let _ = moment.set(Instant::now());
        writer.succeed("POST", &collection, body).await?;
    }
    let mut delays = Samples::default();
    let all = async {
        while let Some(ended) = watchers.join_next().await {
            delays.append(ended.map_err(|e| e.to_string())??);
        }
        Ok::<(), String>(())
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .map_err(|_| "not every watcher saw every event")??;
    report.add("watch.p50", delays.quantile(0.5));
    report.add("watch.p99", delays.quantile(0.99));
    Ok(())
}

/// Reads until the last create was seen.
async fn look(
    connection: Connection,
    mut lines: Lines,
    sent: Arc<Vec<OnceLock<Instant>>>,
) -> Result<Samples> {
    let mut delays = Samples::default();
    while delays.len() < sent.len() {
        let line = lines.next().await?.ok_or("the server ended a watch")?;
        let now = Instant::now();
        let Some(index) = name_index(&line) else {
            continue;
        };
        if let Some(moment) = sent.get(index).and_then(OnceLock::get) {
            delays.add_millis(now.duration_since(*moment));
        }
    }
    drop(connection);
    Ok(delays)
}

/// The number in the name of a watched object. Lines are not parsed: that
/// would cost the client more than the server.
fn name_index(line: &str) -> Option<usize> {
    let (_, rest) = line.split_once("\"name\":\"watched-")?;
    rest.split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_awaited_names_count() {
        let line = format!(r#"{{"type":"ADDED","object":{{"metadata":{{"name":"{PREFIX}17"}}}}}}"#);
        assert_eq!(name_index(&line), Some(17));
        assert_eq!(
            name_index(r#"{"object":{"metadata":{"name":"w1-17"}}}"#),
            None
        );
    }
}
