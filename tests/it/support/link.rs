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
    /// What the program says last before it is [`Way::Silent`].
    last_words: watch::Sender<Option<&'static str>>,
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
        let last_words = watch::Sender::new(None);
        let task = tokio::spawn(carry(listener, far, way.clone(), last_words.subscribe())).abort_handle();
        Self { url: url.to_string(), way, last_words, task }
    }

    pub fn cut(&self) {
        self.become_(Way::Cut);
    }

    pub fn mend(&self) {
        self.become_(Way::Whole);
    }

    /// Falls silent once the program has said these words: the server hears them and its answer gets lost.
    pub fn fall_silent_after(&self, words: &'static str) {
        self.last_words.send_replace(Some(words));
    }

    pub async fn until_silent(&self) {
        let _ = self.way.subscribe().wait_for(|way| *way == Way::Silent).await;
    }

    pub fn become_(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Link {
    /// Closes the port and the connections.
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn carry(
    listener: TcpListener,
    far: String,
    way: watch::Sender<Way>,
    last_words: watch::Receiver<Option<&'static str>>,
) {
    while let Ok((near, _)) = listener.accept().await {
        let (far, way, mut ended, last_words) = (far.clone(), way.clone(), way.subscribe(), last_words.clone());
        tokio::spawn(async move {
            let carried = async {
                if *way.borrow() == Way::Silent {
                    return std::future::pending().await;
                }
                let Ok(far) = TcpStream::connect(&far).await else { return };
                let ((near_reads, near_writes), (far_reads, far_writes)) = (near.into_split(), far.into_split());
                let fall_silent = |said: &[u8]| {
                    let last = last_words.borrow().is_some_and(|words| contains(said, words.as_bytes()));
                    if last {
                        way.send_replace(Way::Silent);
                    }
                };
                let asks = pump(near_reads, far_writes, way.subscribe(), &[Way::Silent], fall_silent);
                let answers = pump(far_reads, near_writes, way.subscribe(), &[Way::Silent, Way::Deaf], |_| {});
                tokio::join!(asks, answers);
            };
            tokio::select! {
                () = carried => {}
                _ = ended.wait_for(|way| *way == Way::Cut) => {}
            }
        });
    }
}

fn contains(said: &[u8], words: &[u8]) -> bool {
    said.windows(words.len()).any(|window| window == words)
}

/// Forwards one direction until its end, or stops for good, with everything left open, at the first of these silences.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
    silences: &[Way],
    heard: impl Fn(&[u8]),
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
            Some(Ok(n)) => {
                // Silent first: no answer may slip through.
                heard(&bytes[..n]);
                if to.write_all(&bytes[..n]).await.is_err() {
                    break;
                }
            }
        }
    }
    let _ = to.shutdown().await;
}
