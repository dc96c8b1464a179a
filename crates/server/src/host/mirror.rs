//! A registry on loopback that serves the images loaded into this machine.
//!
//! containerd asks it first for every image, whatever its registry; what is
//! not here is a 404, whereupon containerd goes on to the image's own
//! registry. Reading only: the distribution specification's pull endpoints.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use coracle_image::ImageStore;
use futures::TryStreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

/// The most connections served at once: containerd opens a few for each image
/// that it pulls.
const MAX_CONNECTIONS: usize = 64;

/// The registry of names in requests that carry no `ns` parameter.
const DEFAULT_REGISTRY: &str = "docker.io";

type Body = BoxBody<Bytes, std::io::Error>;

/// Serves `images` until `shutdown`.
pub async fn serve(listener: TcpListener, images: ImageStore, shutdown: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => return,
            permit = permits.clone().acquire_owned() => permit.expect("never closed"),
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            continue;
        };
        let (images, shutdown) = (images.clone(), shutdown.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let images = images.clone();
                async move { Ok::<_, Infallible>(answer(&images, &request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = connection => log_end(peer, result),
            }
            drop(permit);
        });
    }
}

fn log_end(peer: SocketAddr, result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "registry mirror connection ended");
    }
}

async fn answer(images: &ImageStore, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let with_body = request.method() == Method::GET;
    let path = request.uri().path();
    let Some(rest) = path.strip_prefix("/v2/") else {
        return status(StatusCode::NOT_FOUND);
    };
    if rest.is_empty() {
        return status(StatusCode::OK);
    }
    if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
        return manifest(images, registry(request), repository, reference, with_body);
    }
    if let Some((_, digest)) = rest.rsplit_once("/blobs/") {
        return blob(images, digest, with_body).await;
    }
    status(StatusCode::NOT_FOUND)
}

/// containerd names the registry that it stands in for in the `ns` parameter.
fn registry(request: &Request<Incoming>) -> &str {
    request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("ns="))
        .unwrap_or(DEFAULT_REGISTRY)
}

fn manifest(
    images: &ImageStore,
    registry: &str,
    repository: &str,
    reference: &str,
    with_body: bool,
) -> Response<Body> {
    let registry = registry.replace("%3A", ":").replace("%3a", ":");
    let Some(found) = images.manifest(&registry, repository, reference) else {
        return status(StatusCode::NOT_FOUND);
    };
    let length = found.content.len();
    let content = if with_body { found.content } else { Vec::new() };
    Response::builder()
        .header("Content-Type", found.media_type)
        .header("Content-Length", length)
        .header("Docker-Content-Digest", found.digest)
        .body(full(content))
        .expect("stored manifests have printable types and digests")
}

async fn blob(images: &ImageStore, digest: &str, with_body: bool) -> Response<Body> {
    let Some(path) = images.blob_path(digest) else {
        return status(StatusCode::NOT_FOUND);
    };
    let Some((file, length)) = open(&path).await else {
        return status(StatusCode::NOT_FOUND);
    };
    let body = if with_body {
        StreamBody::new(ReaderStream::new(file).map_ok(Frame::data)).boxed()
    } else {
        full(Vec::new())
    };
    Response::builder()
        .header("Content-Type", "application/octet-stream")
        .header("Content-Length", length)
        .body(body)
        .expect("constant headers")
}

async fn open(path: &Path) -> Option<(tokio::fs::File, u64)> {
    let file = tokio::fs::File::open(path).await.ok()?;
    let length = file.metadata().await.ok()?.len();
    Some((file, length))
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Vec::new()));
    *response.status_mut() = code;
    response
}

fn full(content: Vec<u8>) -> Body {
    Full::new(Bytes::from(content))
        .map_err(|never| match never {})
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_image::{Image, ImageSpec, Layer, Reference};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn loaded_images_are_served_and_others_are_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let images = ImageStore::open(directory.path().join("images")).unwrap();
        let source = directory.path().join("program");
        std::fs::write(&source, b"#!").unwrap();
        let layer = Layer::Executable {
            source,
            target: "program",
        };
        let image = Image::build(&ImageSpec::default(), &layer).unwrap();
        images
            .put(&Reference::parse("nginx").unwrap(), &image)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, images, shutdown.clone()));

        assert!(get(address, "/v2/").await.starts_with("HTTP/1.1 200"));
        let found = get(address, "/v2/library/nginx/manifests/latest?ns=docker.io").await;
        assert!(found.starts_with("HTTP/1.1 200"), "{found}");
        assert!(
            found
                .to_lowercase()
                .contains("docker-content-digest: sha256:")
        );
        let (digest, content) = image.blobs().nth(1).unwrap();
        let blob = get(address, &format!("/v2/library/nginx/blobs/{digest}")).await;
        assert!(blob.ends_with(std::str::from_utf8(content).unwrap()));
        for absent in [
            "/v2/library/nginx/manifests/latest?ns=quay.io",
            "/v2/library/nginx/manifests/1?ns=docker.io",
            "/v2/library/nginx/blobs/sha256:../../../x",
            "/",
        ] {
            assert!(
                get(address, absent).await.starts_with("HTTP/1.1 404"),
                "{absent}"
            );
        }
        shutdown.cancel();
        server.await.unwrap();
    }
}
