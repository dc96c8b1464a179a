//! Logs over WebSocket: the server writes into frames what a node sends as a
//! plain answer, as browsers read it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_machinery::ApiError;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::body::Body;

const KEY: &str = "sec-websocket-key";
const PROTOCOL: &str = "sec-websocket-protocol";
/// What RFC 6455 appends to a client's key.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest frame that is taken from a client, which has nothing to say here.
const MAX_CLIENT_FRAME: u64 = 64 << 10;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// How bytes are put into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Binary,
    Base64,
}

/// A client's wish to read over WebSocket.
pub(super) struct WebSocket {
    client: OnUpgrade,
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
    form: Form,
}

impl WebSocket {
    /// The wish of a request, which is a plain one afterwards; `None` if it is
    /// one already.
    ///
    /// # Errors
    /// If the client speaks none of the protocols there are.
    pub(super) fn take(request: &mut Request<Body>) -> Result<Option<Self>, ApiError> {
        let headers = request.headers();
        let wanted = headers
            .get(UPGRADE)
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let Some(key) = headers.get(KEY).filter(|_| wanted).cloned() else {
            return Ok(None);
        };
        let (protocol, form) = protocol(headers)?;
        let client = hyper::upgrade::on(&mut *request);
        let headers = request.headers_mut();
        headers.remove(UPGRADE);
        headers.remove(CONNECTION);
        let offered: Vec<_> = headers.keys().cloned().collect();
        for name in offered {
            if name.as_str().starts_with("sec-websocket-") {
                headers.remove(name);
            }
        }
        let digest = Sha1::digest([key.as_bytes(), MAGIC.as_bytes()].concat());
        let accept = HeaderValue::try_from(STANDARD.encode(digest)).map_err(ApiError::internal)?;
        Ok(Some(Self {
            client,
            accept,
            protocol,
            form,
        }))
    }

    /// The answer that opens the connection, over which the body of another
    /// follows. An answer that tells of a failure is left as it is.
    pub(super) fn carry(self, answer: Response<Body>) -> Response<Body> {
        if !answer.status().is_success() {
            return answer;
        }
        let mut opening = Response::new(Body::empty());
        *opening.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = opening.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert("sec-websocket-accept", self.accept);
        if let Some(protocol) = self.protocol {
            headers.insert(PROTOCOL, protocol);
        }
        let (client, form) = (self.client, self.form);
        tokio::spawn(async move {
            match client.await {
                Ok(client) => {
                    let (reader, writer) = tokio::io::split(TokioIo::new(client));
                    tokio::select! {
                        sent = send(writer, form, answer.into_body()) => {
                            if let Err(error) = sent {
                                tracing::debug!(%error, "a log over WebSocket ended");
                            }
                        }
                        () = closed(reader) => {}
                    }
                }
                Err(error) => tracing::debug!(%error, "an upgrade failed"),
            }
        });
        opening
    }
}

fn protocol(headers: &HeaderMap) -> Result<(Option<HeaderValue>, Form), ApiError> {
    let lists = headers.get_all(PROTOCOL).iter();
    let names = lists.filter_map(|v| v.to_str().ok());
    let mut names = names.flat_map(|v| v.split(',')).map(str::trim).peekable();
    if names.peek().is_none() {
        return Ok((None, Form::Binary));
    }
    let known = |name: &str| match name {
        "" => Some(("", Form::Binary)),
        "binary.k8s.io" => Some(("binary.k8s.io", Form::Binary)),
        "base64.binary.k8s.io" => Some(("base64.binary.k8s.io", Form::Base64)),
        _ => None,
    };
    let (name, form) = names.find_map(known).ok_or_else(|| {
        ApiError::bad_request("requested protocol(s) are not supported by this endpoint")
    })?;
    let chosen = (!name.is_empty()).then(|| HeaderValue::from_static(name));
    Ok((chosen, form))
}

async fn send(
    mut writer: impl AsyncWrite + Unpin,
    form: Form,
    mut body: Body,
) -> std::io::Result<()> {
    // An empty message tells that the stream is open, as upstream.
    write(&mut writer, form, Bytes::new()).await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(std::io::Error::other)?;
        if let Ok(data) = frame.into_data() {
            write(&mut writer, form, data).await?;
        }
    }
    writer.write_all(&[0x80 | CLOSE, 2, 0x03, 0xe8]).await?;
    writer.shutdown().await
}

async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    form: Form,
    data: Bytes,
) -> std::io::Result<()> {
    let (kind, data) = match form {
        Form::Binary => (BINARY, data),
        Form::Base64 => (TEXT, STANDARD.encode(data).into()),
    };
    let mut head = vec![0x80 | kind];
    match (u8::try_from(data.len()), u16::try_from(data.len())) {
        (Ok(short), _) if short < 126 => head.push(short),
        (_, Ok(length)) => {
            head.push(126);
            head.extend(length.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend((data.len() as u64).to_be_bytes());
        }
    }
    writer.write_all(&head).await?;
    writer.write_all(&data).await?;
    writer.flush().await
}

/// Waits until the client closes, or breaks off.
async fn closed(mut reader: impl AsyncRead + Unpin) {
    while let Ok(kind) = client_frame(&mut reader).await {
        if kind == CLOSE {
            return;
        }
    }
}

/// Skips one frame; its kind.
async fn client_frame(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<u8> {
    let mut head = [0; 2];
    reader.read_exact(&mut head).await?;
    let mut length = match head[1] & 0x7f {
        126 => u64::from(reader.read_u16().await?),
        127 => reader.read_u64().await?,
        short => u64::from(short),
    };
    if head[1] & 0x80 != 0 {
        // The mask.
        length = length.saturating_add(4);
    }
    if length > MAX_CLIENT_FRAME {
        return Err(std::io::Error::other("a frame of that length"));
    }
    let skipped = tokio::io::copy(&mut reader.take(length), &mut tokio::io::sink()).await?;
    if skipped < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(head[0] & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &str)]) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_wish_is_taken_out_of_the_request() {
        let mut plain = request(&[("connection", "keep-alive")]);
        assert!(WebSocket::take(&mut plain).unwrap().is_none());
        let mut wish = request(&[
            ("connection", "Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "other, base64.binary.k8s.io"),
        ]);
        let taken = WebSocket::take(&mut wish).unwrap().unwrap();
        assert!(wish.headers().is_empty());
        assert_eq!(taken.form, Form::Base64);
        let failed = Response::builder().status(404).body(Body::empty()).unwrap();
        assert_eq!(taken.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(taken.protocol.clone().unwrap(), "base64.binary.k8s.io");
        assert_eq!(taken.carry(failed).status(), 404);
        let mut strange = request(&[
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
        ]);
        assert!(WebSocket::take(&mut strange).is_err());
    }

    #[tokio::test]
    async fn bytes_are_framed() {
        let long = "y".repeat(300);
        let chunks = ["x".to_owned(), long.clone()].map(|text| Ok(Bytes::from(text)));
        let body = Body::stream(futures::stream::iter(chunks));
        let mut out = Vec::new();
        send(&mut out, Form::Binary, body).await.unwrap();
        let mut expected = vec![0x82, 0, 0x82, 1, b'x', 0x82, 126, 1, 44];
        expected.extend(long.as_bytes());
        expected.extend([0x88, 2, 3, 0xe8]);
        assert_eq!(out, expected);
        let mut out = Vec::new();
        send(&mut out, Form::Base64, Body::full("x")).await.unwrap();
        assert_eq!(&out[..8], &[0x81, 0, 0x81, 4, b'e', b'A', b'=', b'=']);
    }

    #[tokio::test]
    async fn a_client_may_close() {
        let ping = [0x89, 0x81, 1, 2, 3, 4, 9];
        let close = [0x88, 0x80, 1, 2, 3, 4];
        let both = [&ping[..], &close[..]].concat();
        let mut reader = both.as_slice();
        assert_eq!(client_frame(&mut reader).await.unwrap(), 9);
        assert_eq!(client_frame(&mut reader).await.unwrap(), CLOSE);
        let huge = [0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert!(client_frame(&mut huge.as_slice()).await.is_err());
    }
}
