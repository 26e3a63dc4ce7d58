//! A way to the database that fails on command.

use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Whole,
    /// Connections break, and new ones are closed at once.
    Cut,
    /// Half open: nothing arrives and nothing is closed, in both directions. New connections are taken and hear nothing.
    Silent,
    /// The same, but what the program says still arrives: only the answers are lost.
    Deaf,
}

/// A proxy on loopback. What was silent once stays silent; connections made after [`Link::mend`] work.
pub struct Link {
    /// The database's address over this way.
    pub url: String,
    way: watch::Sender<Way>,
    task: AbortHandle,
}

impl Link {
    pub async fn to(database_url: &str) -> Self {
        let options: PgConnectOptions = database_url.parse().expect("a PostgreSQL URL");
        let far = format!("{}:{}", options.get_host(), options.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let near = listener.local_addr().expect("its address");
        let mut url = url::Url::parse(database_url).expect("a URL");
        url.set_ip_host(near.ip()).expect("a host");
        url.set_port(Some(near.port())).expect("a port");
        let way = watch::Sender::new(Way::Whole);
        let task = tokio::spawn(carry(listener, far, way.subscribe())).abort_handle();
        Self { url: url.to_string(), way, task }
    }

    pub fn cut(&self) {
        self.become_(Way::Cut);
    }

    pub fn mend(&self) {
        self.become_(Way::Whole);
    }

    pub fn become_(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Link {
    /// Closes the port; the sender goes with the link, which ends the connections.
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(listener: TcpListener, far: String, way: watch::Receiver<Way>) {
    while let Ok((near, _)) = listener.accept().await {
        let (far, mut ended) = (far.clone(), way.clone());
        let way = way.clone();
        tokio::spawn(async move {
            let carried = async {
                if *way.borrow() == Way::Silent {
                    return std::future::pending().await;
                }
                let Ok(far) = TcpStream::connect(&far).await else { return };
                let ((near_reads, near_writes), (far_reads, far_writes)) = (near.into_split(), far.into_split());
                let asks = pump(near_reads, far_writes, way.clone(), &[Way::Silent]);
                let answers = pump(far_reads, near_writes, way, &[Way::Silent, Way::Deaf]);
                tokio::join!(asks, answers);
            };
            tokio::select! {
                () = carried => {}
                // Cut, or the link is gone.
                _ = ended.wait_for(|way| *way == Way::Cut) => {}
            }
        });
    }
}

/// Forwards one direction until its end, or stops for good, with everything left open, at the first of these silences.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
    silences: &[Way],
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            _ = async { way.wait_for(|way| silences.contains(way)).await.is_ok() } => None,
            read = from.read(&mut bytes) => Some(read),
        };
        match read {
            None => return std::future::pending().await,
            Some(Ok(0) | Err(_)) => break,
            Some(Ok(n)) if to.write_all(&bytes[..n]).await.is_err() => break,
            Some(Ok(_)) => {}
        }
    }
    let _ = to.shutdown().await;
}
