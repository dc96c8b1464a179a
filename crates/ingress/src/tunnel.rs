//! TLS that ends at the service: connections are passed on as they are, by the
//! name that their client asks for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::server::Acceptor;

use crate::table::Backend;

/// Most bytes of a client's first message, which rustls bounds likewise.
const MAX_HELLO: usize = 64 * 1024;
/// How much is read of it at once.
const PIECE: usize = 4096;
/// How long an endpoint may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most endpoints that are tried for one connection.
const MAX_ATTEMPTS: usize = 3;

/// After how many seconds of silence a side of a tunnel is asked whether it is
/// there, how often, and how many times before it counts as gone: who vanished
/// must not keep its place.
const KEEP_ALIVE_IDLE: u32 = 60;
const KEEP_ALIVE_INTERVAL: u32 = 15;
const KEEP_ALIVE_PROBES: u32 = 4;

/// A stream of which the beginning has been read already, and is read again.
pub struct Begun<S> {
    beginning: Vec<u8>,
    /// How much of it has been read again.
    read: usize,
    stream: S,
}

/// Reads a client's first message; gives the server name in it, if there is one,
/// in lower case.
///
/// # Errors
/// If the connection ends or breaks before the message is whole, or the message
/// is too long.
pub async fn begin<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Option<String>, Begun<S>)> {
    let mut beginning = Vec::new();
    let mut acceptor = Acceptor::default();
    let name = loop {
        let mut piece = [0; PIECE];
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        beginning.extend_from_slice(&piece[..length]);
        let mut unread = &piece[..length];
        while !unread.is_empty() {
            acceptor.read_tls(&mut unread)?;
        }
        match acceptor.accept() {
            Ok(None) if beginning.len() < MAX_HELLO => {}
            Ok(None) => return Err(io::Error::other("the first message has no end")),
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                break name.map(|name| name.to_ascii_lowercase());
            }
            // The handshake will say what is wrong with it.
            Err(_) => break None,
        }
    };
    let begun = Begun {
        beginning,
        read: 0,
        stream,
    };
    Ok((name, begun))
}

impl Begun<TcpStream> {
    /// Passes the connection on to the first endpoint that takes it, until
    /// either side ends it.
    ///
    /// # Errors
    /// If no endpoint takes it, the service has too much to do, or it breaks.
    pub async fn pass_on(mut self, backend: &Arc<Backend>) -> io::Result<()> {
        let place = backend.places.clone().try_acquire_owned();
        let _place = place.map_err(|_| io::Error::other("the service has too much to do"))?;
        keep_alive(&self.stream)?;
        let mut last = io::Error::other("the service has no endpoints");
        for endpoint in backend.in_turn().take(MAX_ATTEMPTS) {
            let connecting = TcpStream::connect(endpoint);
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(mut endpoint)) => {
                    endpoint.set_nodelay(true)?;
                    keep_alive(&endpoint)?;
                    endpoint.write_all(&self.beginning).await?;
                    tokio::io::copy_bidirectional(&mut self.stream, &mut endpoint).await?;
                    return Ok(());
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_IDLE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_INTERVAL)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEP_ALIVE_PROBES)?;
    Ok(())
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &this.beginning[this.read..];
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        this.read += length;
        if this.read == this.beginning.len() {
            (this.beginning, this.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
