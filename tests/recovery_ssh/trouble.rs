//! Machines and networks that behave badly.

use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// A port whose queue of connections is full: it answers nothing.
pub fn full_backlog() -> (SocketAddr, Vec<std::net::TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let server = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&server, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
    listen(&server, 0).expect("listens");
    let address: SocketAddr = getsockname(&server).expect("a name").try_into().expect("an address");
    let mut kept = vec![std::net::TcpStream::from(server)];
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        kept.push(stream);
    }
    (address, kept)
}

/// Between the pod and the machine, and still while told so.
pub async fn pausing_proxy(target: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let paused = watch::Sender::new(false);
    let watched = paused.clone();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.expect("accepted");
        let far = TcpStream::connect(target).await.expect("connected");
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        let one = copy(near_read, far_write, watched.subscribe());
        let two = copy(far_read, near_write, watched.subscribe());
        tokio::join!(one, two);
    });
    (address, paused)
}

async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, mut paused: watch::Receiver<bool>) {
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let _ = paused.wait_for(|paused| !paused).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// What a rogue machine tried, and whether it was let.
pub type Tried = [(&'static str, bool); 5];

struct Rogue(Option<oneshot::Sender<Tried>>);

impl russh::server::Handler for Rogue {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(&mut self, _: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn agent_request(&mut self, _: ChannelId, _: &mut Session) -> Result<bool, Self::Error> {
        Ok(true)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        let (handle, tell) = (session.handle(), self.0.take());
        tokio::spawn(async move {
            let tried = [
                ("forwarded-tcpip", handle.channel_open_forwarded_tcpip("127.0.0.1", 1, "127.0.0.1", 2).await.is_ok()),
                ("forwarded-streamlocal", handle.channel_open_forwarded_streamlocal("/tmp/x").await.is_ok()),
                ("x11", handle.channel_open_x11("127.0.0.1", 6000).await.is_ok()),
                ("session", handle.channel_open_session().await.is_ok()),
                ("direct-tcpip", handle.channel_open_direct_tcpip("127.0.0.1", 1, "127.0.0.1", 2).await.is_ok()),
            ];
            for _ in 0..50 {
                let handle = handle.clone();
                tokio::spawn(async move { handle.channel_open_agent().await });
            }
            let _ = tell.expect("once").send(tried);
            std::future::pending::<()>().await;
        });
        Ok(())
    }
}

/// A machine that opens channels nobody asked for; tells what it was let, and then asks for fifty of the ssh-agent's.
pub async fn rogue(key: PrivateKey) -> (SocketAddr, oneshot::Receiver<Tried>) {
    let (tell, told) = oneshot::channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let configuration = Arc::new(russh::server::Config { keys: vec![key], ..Default::default() });
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepted");
        let session = russh::server::run_stream(configuration, stream, Rogue(Some(tell))).await.expect("a session");
        let _ = session.await;
    });
    (address, told)
}
