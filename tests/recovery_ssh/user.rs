//! The gateway's end of channels, and the user behind it.

use super::bench::text;
use bytes::BytesMut;
use sandglass::link::client::{Dialer, Socket};
use sandglass::link::message::{Exit, Process};
use sandglass::link::read_ahead::ReadAhead;
use sandglass::link::socket::{self, Receiver};
use sandglass::link::{frame, tls};
use sandglass::recovery::ssh::{Connection, Forwards};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinHandle;

/// Where channels are dialled.
pub struct Gateway {
    dialer: Dialer,
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl Gateway {
    /// Listens.
    pub async fn start() -> Self {
        let (certificate, key) = tls::new_authority().expect("a CA");
        let acceptor = tls::acceptor(&certificate, key.expose()).expect("an acceptor");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        Self { dialer: Dialer::new(&certificate).expect("a dialer"), listener, acceptor }
    }

    /// A channel: the pod's socket, and the user's side.
    pub async fn pair(&self) -> (Socket, User) {
        let accept = async {
            let (stream, _) = self.listener.accept().await.expect("accepted");
            stream.set_nodelay(true).expect("set");
            let mut stream = self.acceptor.accept(ReadAhead::new(stream)).await.expect("TLS");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.expect("answered");
            stream.flush().await.expect("answered");
            Socket::new(stream, BytesMut::new())
        };
        let dial = self.dialer.channel(self.listener.local_addr().expect("address"), "ticket");
        let (near, far) = tokio::join!(Box::pin(accept), Box::pin(dial));
        (far.expect("dialled"), User::new(near))
    }

    /// Serves a process.
    pub async fn serve(&self, connection: Connection, process: Process) -> User {
        let (socket, mut user) = self.pair().await;
        let forwards = user.forwards.clone();
        user.task = tokio::spawn(async move { connection.process(&process, socket, &forwards).await });
        user
    }
}

/// Sends frames.
pub struct Sender(socket::Sender);

impl Sender {
    /// One frame.
    pub async fn send(&mut self, stream: u8, payload: &[u8]) {
        let _ = self.0.send(frame::encode(stream, payload)).await;
    }
}

/// The user's side of a channel.
pub struct User {
    sender: Option<Sender>,
    receiver: Receiver,
    /// Where the pod parks agent connections.
    pub forwards: Forwards,
    /// The pod's side.
    pub task: JoinHandle<()>,
    /// Standard output so far.
    pub stdout: Vec<u8>,
    /// Standard error so far.
    pub stderr: Vec<u8>,
    /// Its end was told.
    pub output_ended: bool,
    /// Numbers that were told.
    pub agent_connections: Vec<u64>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// For one frame.
    pub limit: Duration,
}

impl User {
    fn new(near: Socket) -> Self {
        let (sender, receiver) = near.split();
        Self {
            sender: Some(Sender(sender)),
            receiver,
            forwards: Forwards::default(),
            task: tokio::spawn(async {}),
            stdout: vec![],
            stderr: vec![],
            output_ended: false,
            agent_connections: vec![],
            exit: None,
            limit: Duration::from_secs(30),
        }
    }

    /// One frame to the pod.
    pub async fn send(&mut self, stream: u8, payload: &[u8]) {
        self.sender.as_mut().expect("not taken").send(stream, payload).await;
    }

    /// The sending half.
    pub fn take_sender(&mut self) -> Sender {
        self.sender.take().expect("not taken")
    }

    /// Takes the next frame; false at the end.
    pub async fn next(&mut self) -> bool {
        let frame = tokio::time::timeout(self.limit, self.receiver.next()).await.expect("a frame within the limit");
        let Some(frame) = frame else { return false };
        let (stream, payload) = frame::decode(frame).expect("a frame");
        assert!(self.exit.is_none(), "a frame after the status: {stream}");
        match stream {
            frame::STDOUT => self.stdout.extend_from_slice(&payload),
            frame::STDERR => self.stderr.extend_from_slice(&payload),
            frame::STATUS => self.exit = Some(serde_json::from_slice(&payload).expect("a status")),
            frame::CLOSE => self.output_ended = payload == [frame::STDOUT][..],
            frame::AGENT_CONNECTION => self.agent_connections.push(u64::from_be_bytes(payload.as_ref().try_into().expect("a number"))),
            other => panic!("frame {other} must not come"),
        }
        true
    }

    /// Takes everything to the end.
    pub async fn rest(&mut self) {
        while self.next().await {}
    }

    /// Takes everything to the end and keeps nothing; gives how much output it was.
    pub async fn discard(&mut self) -> usize {
        let mut count = 0;
        while self.next().await {
            count += self.stdout.len();
            self.stdout.clear();
        }
        count
    }

    /// Takes frames until the condition is met.
    pub async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            assert!(self.next().await, "ended: {:?} {}{}", self.exit, text(&self.stdout), text(&self.stderr));
        }
    }

    /// Joins the channel with the user's own ssh-agent.
    pub async fn join(mut self, mut agent: UnixStream) {
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                more = self.next() => {
                    if !more { return }
                    agent.write_all(&std::mem::take(&mut self.stdout)).await.expect("written");
                    if self.output_ended {
                        agent.shutdown().await.expect("shut down");
                    }
                }
                count = agent.read(&mut buffer) => match count.expect("read") {
                    0 => return self.send(frame::CLOSE, &[frame::STDIN]).await,
                    count => {
                        let data = buffer[..count].to_vec();
                        self.send(frame::STDIN, &data).await;
                    }
                },
            }
        }
    }
}
