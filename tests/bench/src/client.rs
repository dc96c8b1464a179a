//! One connection: TLS, HTTP/1.1, one request at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Result;
use crate::kubeconfig::Access;

/// How long any answer may take: a server that needs longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to an API server.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: Arc<str>,
    authorization: Option<Arc<str>>,
}

impl Connection {
    /// Connects.
    pub async fn open(access: &Access) -> Result<Self> {
        let authority = format!("{}:{}", access.host, access.port);
        let failed = |error: &dyn std::fmt::Display| format!("{authority}: {error}");
        let address = (access.host.as_str(), access.port);
        let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
        stream.set_nodelay(true).map_err(|e| failed(&e))?;
        let name = ServerName::try_from(access.host.clone()).map_err(|e| failed(&e))?;
        let tls = TlsConnector::from(access.tls.clone());
        let stream = tls.connect(name, stream).await.map_err(|e| failed(&e))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        // Its end is seen by whoever sends next.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            authority: authority.into(),
            authorization: access
                .token
                .as_ref()
                .map(|token| format!("Bearer {token}").into()),
        })
    }

    /// Sends a request and returns the answer once its head is there.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let failed = |error: &dyn std::fmt::Display| format!("{method} {path}: {error}");
        self.sender.ready().await.map_err(|e| failed(&e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &*self.authority)
            .header("accept", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", &**authorization);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|e| failed(&e))?;
        let answer = tokio::time::timeout(PATIENCE, self.sender.send_request(request));
        answer
            .await
            .map_err(|e| failed(&e))?
            .map_err(|e| failed(&e))
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(|e| format!("{method} {path}: {e}"))?;
        Ok((status, body.to_bytes()))
    }

    /// As `call`, and fails unless the status tells success.
    pub async fn succeed(&mut self, method: &str, path: &str, body: Bytes) -> Result<Bytes> {
        let (status, answer) = self.call(method, path, body).await?;
        if status.is_success() {
            return Ok(answer);
        }
        Err(format!(
            "{method} {path}: {status}: {}",
            String::from_utf8_lossy(&answer)
        ))
    }

    /// An object or a list of objects.
    pub async fn get(&mut self, path: &str) -> Result<serde_json::Value> {
        let answer = self.succeed("GET", path, Bytes::new()).await?;
        serde_json::from_slice(&answer).map_err(|e| format!("GET {path}: {e}"))
    }
}

/// The lines of a watch, as they arrive.
pub struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// Starts a watch; `path` has its parameters.
    pub async fn watch(connection: &mut Connection, path: &str) -> Result<Self> {
        let answer = connection.send("GET", path, Bytes::new()).await?;
        if !answer.status().is_success() {
            return Err(format!("GET {path}: {}", answer.status()));
        }
        Ok(Self {
            body: answer.into_body(),
            pending: Vec::new(),
        })
    }

    /// The next line without its end; none once the server has ended it.
    pub async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return String::from_utf8(line).map(Some).map_err(|e| e.to_string());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.pending.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
