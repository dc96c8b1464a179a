//! Asking upstream servers for names that are not the cluster's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// How long an upstream server may take; clients give up after five seconds.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at once; beyond, clients are told to try again.
const MAX_IN_FLIGHT: usize = 256;
/// Upstream servers asked, in order, as resolvers have it.
const MAX_UPSTREAMS: usize = 3;
/// The longest message.
const MAX_MESSAGE: usize = 65_535;

/// Servers that are asked in order.
#[derive(Clone, Debug)]
pub struct Upstreams {
    servers: Arc<Vec<SocketAddr>>,
    permits: Arc<Semaphore>,
}

impl Upstreams {
    /// At most the first three of `servers`.
    pub fn new(mut servers: Vec<SocketAddr>) -> Self {
        servers.truncate(MAX_UPSTREAMS);
        Self {
            servers: Arc::new(servers),
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
        }
    }

    /// The answer of the first server that gives one; `message` is the whole
    /// question as it came.
    pub async fn ask(&self, message: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let _permit = self.permits.try_acquire().ok()?;
        for server in self.servers.iter() {
            let answer = async {
                if tcp {
                    ask_tcp(*server, message).await
                } else {
                    ask_udp(*server, message).await
                }
            };
            match tokio::time::timeout(TIMEOUT, answer).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream DNS failed"),
                Err(_) => tracing::debug!(%server, "upstream DNS did not answer"),
            }
        }
        None
    }
}

async fn ask_udp(server: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket and port of its own for each question: an answer cannot be
    // forged by who does not see it.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Another identifier answers another question.
        if length >= 2 && buffer[..2] == message[..2.min(message.len())] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(message).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The servers in /etc/resolv.conf, without this one itself.
pub fn system_upstreams(own: SocketAddr) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    parse_resolv_conf(&text)
        .into_iter()
        .map(|address| SocketAddr::new(address, 53))
        .filter(|server| *server != own)
        .collect()
}

fn parse_resolv_conf(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_from_resolv_conf() {
        let text = "# x\nsearch a b\nnameserver 10.0.0.1 # y\n nameserver ::1\nnameserver x\n";
        let expected: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(parse_resolv_conf(text), expected);
    }

    #[tokio::test]
    async fn answers_with_a_wrong_identifier_are_passed_over() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 64];
            let (_, from) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(&[9, 9, 1], from).await.unwrap();
            server.send_to(&[1, 2, 3], from).await.unwrap();
        });
        let upstreams = Upstreams::new(vec![address]);
        assert_eq!(upstreams.ask(&[1, 2], false).await.unwrap(), [1, 2, 3]);
        answering.await.unwrap();
        assert!(Upstreams::new(vec![]).ask(&[1, 2], false).await.is_none());
    }
}
