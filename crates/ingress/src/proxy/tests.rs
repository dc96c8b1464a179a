//! Requests over real sockets: client, proxy, endpoint.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::listener::serve;
use crate::path::Pattern;
use crate::table::{Backend, Route, Site};

/// An endpoint that answers with what it was asked, head and body, and that
/// speaks backwards once the protocol has changed.
async fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(talk(stream));
        }
    });
    address
}

async fn talk(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(number) = line.strip_prefix("content-length: ") {
            length = number.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    if head.contains("upgrade: websocket") {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut said = [0; 4];
        while stream.read_exact(&mut said).await.is_ok() {
            said.reverse();
            stream.write_all(&said).await.unwrap();
        }
        return;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let text = format!("{head}{}", String::from_utf8(body).unwrap());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\nx-kept: 2\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn target(endpoints: Vec<SocketAddr>, places: usize, secured: bool) -> Target {
    Target {
        backend: Arc::new(Backend {
            endpoints,
            turn: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(places)),
        }),
        secured,
        tunnelled: false,
    }
}

/// A proxy with a route for each of these paths of `example.com`.
async fn proxy(routes: Vec<(&str, Target)>) -> SocketAddr {
    let rule = |path: &str| {
        Pattern::new(&k8s_openapi::api::networking::v1::HTTPIngressPath {
            path: Some(path.to_owned()),
            path_type: "Prefix".to_owned(),
            ..Default::default()
        })
    };
    let routes = routes.into_iter().map(|(path, target)| Route {
        pattern: rule(path),
        target,
    });
    let site = Site {
        routes: routes.collect(),
        ..Site::default()
    };
    let sites = HashMap::from([("example.com".to_owned(), site)]);
    let (_, table) = watch::channel(Arc::new(Table { sites }));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, None, Arc::new(Proxy::new(table)), stop));
    address
}

/// The whole answer to a request in one connection, which ends with it.
async fn ask(proxy: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = request.replace('\n', "\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\nHost: Example.com:80\nConnection: close\n\n")
}

#[tokio::test]
async fn endpoints_are_told_of_the_client_what_was_seen() {
    let proxy = proxy(vec![("/", target(vec![endpoint().await], 9, false))]).await;
    let request = "POST /a/%2e/b?q=1 HTTP/1.1\nHost: Example.com:80\nX-Forwarded-For: 192.0.2.9\n\
        X-Real-IP: 192.0.2.9\nX-Forwarded-Proto: https\nForwarded: for=192.0.2.9\n\
        Keep-Alive: 1\nX-Secret-Hop: 1\nConnection: close, X-Secret-Hop\nUpgrade: h2c\nTE: trailers\n\
        Cookie: a=1\nCookie: b=2\nContent-Length: 5\n\nhello";
    let answer = ask(proxy, request).await;
    for there in [
        "HTTP/1.1 200 OK\r\n",
        "POST /a/%2e/b?q=1 HTTP/1.1\r\n",
        "host: Example.com:80\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-real-ip: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: Example.com:80\r\n",
        "cookie: a=1; b=2\r\n",
        "x-kept: 2\r\n",
        "hello",
    ] {
        assert!(answer.contains(there), "{there} in {answer}");
    }
    for gone in [
        "192.0.2.9",
        "keep-alive",
        "secret-hop",
        "h2c",
        "trailers",
        "x-hop",
    ] {
        assert!(!answer.contains(gone), "{gone} in {answer}");
    }
}

#[tokio::test]
async fn a_body_has_one_length() {
    let proxy = proxy(vec![("/", target(vec![endpoint().await], 9, false))]).await;
    for lengths in [
        "Content-Length: 3\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 3",
    ] {
        let request = format!(
            "POST / HTTP/1.1\nHost: example.com\nConnection: close\n{lengths}\n\n5\nhello\n0\n\n"
        );
        let answer = ask(proxy, &request).await.to_lowercase();
        let (_, seen) = answer.split_once("\r\n\r\n").unwrap();
        assert!(seen.contains("transfer-encoding: chunked\r\n"), "{answer}");
        assert!(!seen.contains("content-length"), "{answer}");
    }
    let twice = "POST / HTTP/1.1\nHost: example.com\nConnection: close\nContent-Length: 3\n\
        Content-Length: 4\n\nabcd";
    let answer = ask(proxy, twice).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn requests_that_lead_nowhere_are_refused() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    let proxy = proxy(vec![
        ("/empty", target(Vec::new(), 9, false)),
        ("/dead", target(vec![dead], 9, false)),
        ("/full", target(vec![dead], 0, false)),
        ("/secure", target(Vec::new(), 9, true)),
    ])
    .await;
    for (request, wanted) in [
        (get("/nowhere"), "404"),
        (get("/empty"), "503"),
        (get("/full"), "503"),
        (get("/dead"), "502"),
        (get("/empty/../../etc"), "400"),
        (get("/%"), "400"),
        (get("/empty").replace("Example.com:80", "other.com"), "404"),
        (
            get("/empty").replace("Example.com:80", "user@example.com"),
            "400",
        ),
        (
            get("/empty").replace("Example.com:80", "exa mple.com"),
            "400",
        ),
        (get("/empty").replace("Host: Example.com:80\n", ""), "400"),
        (
            get("/empty").replace("Host:", "Host: other.com\nHost:"),
            "400",
        ),
        (
            get("http://example.com/empty").replace("Example.com:80", "other.com"),
            "503",
        ),
        (
            "CONNECT example.com:22 HTTP/1.1\nHost: example.com\nConnection: close\n\n".into(),
            "405",
        ),
    ] {
        let answer = ask(proxy, &request).await;
        let status = answer.split(' ').nth(1);
        assert_eq!(status, Some(wanted), "{request}{answer}");
    }
    let answer = ask(proxy, &get("/secure/a?b=c")).await;
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    assert!(
        answer.contains("location: https://Example.com/secure/a?b=c\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn another_endpoint_is_tried_while_nothing_is_sent() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gone = closed.local_addr().unwrap();
    drop(closed);
    let proxy = proxy(vec![(
        "/",
        target(vec![gone, gone, endpoint().await], 9, false),
    )])
    .await;
    for _ in 0..3 {
        let request =
            "PUT / HTTP/1.1\nHost: example.com\nConnection: close\nContent-Length: 4\n\nbody";
        let answer = ask(proxy, request).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("body"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn websockets_pass() {
    let target = target(vec![endpoint().await], 1, false);
    let places = target.backend.places.clone();
    let proxy = proxy(vec![("/", target)]).await;
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = "GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).await.unwrap() > 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut said = [0; 4];
    for (words, backwards) in [(b"abcd", b"dcba"), (b"1234", b"4321")] {
        stream.write_all(words).await.unwrap();
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, backwards);
    }
    assert_eq!(places.available_permits(), 0);
    drop(stream);
    // The tunnel ends with either side, and its place is free again.
    drop(places.acquire().await.unwrap());
}
