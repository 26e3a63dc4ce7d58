//! The line to a mail server, in ASCII whatever the server says.
//!
//! Replies are ASCII (RFC 5321, 4.2; SMTPUTF8 is not asked for), but servers write names and signatures of any encoding into them.
//! lettre takes a reply that is not UTF-8 for a broken line, and a message that was accepted with such words would go out
//! again. So what is not ASCII becomes a question mark before lettre reads it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead as _, AsyncWrite as _};
#[expect(deprecated, reason = "the only way to lettre's TLS below a stream of our own")]
use lettre::transport::smtp::client::AsyncNetworkStream as Network;
use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Clones are the same line, so that it can be had back from a connection that is dropped.
#[derive(Clone, Debug)]
pub struct Line(Arc<Mutex<Inner>>);

#[derive(Debug)]
#[expect(deprecated, reason = "see above")]
struct Inner {
    network: Network,
    /// Read before anything that comes from the server.
    ahead: &'static [u8],
}

impl Line {
    #[expect(deprecated, reason = "see above")]
    pub fn new(network: Network) -> Self {
        Self(Arc::new(Mutex::new(Inner { network, ahead: b"" })))
    }

    /// A line on which the server does not greet any more, because it did before TLS began (RFC 3207, 4.2).
    #[expect(deprecated, reason = "see above")]
    pub fn greeted(network: Network) -> Self {
        Self(Arc::new(Mutex::new(Inner { network, ahead: b"220 TLS\r\n" })))
    }

    /// What lies below; `None` while a clone is in use.
    #[expect(deprecated, reason = "see above")]
    pub fn into_network(self) -> Option<Network> {
        let inner = Arc::into_inner(self.0)?.into_inner();
        Some(inner.unwrap_or_else(PoisonError::into_inner).network)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if !inner.ahead.is_empty() {
            let (now, later) = inner.ahead.split_at(inner.ahead.len().min(buf.remaining()));
            buf.put_slice(now);
            inner.ahead = later;
            return Poll::Ready(Ok(()));
        }
        let space = buf.initialize_unfilled();
        let read = ready!(Pin::new(&mut inner.network).poll_read(cx, space))?;
        space[..read].iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner().network).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().network).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().network).poll_close(cx)
    }
}

impl AsyncTokioStream for Line {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner().network.peer_addr()
    }
}
