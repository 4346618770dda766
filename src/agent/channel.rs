//! One SSH channel's socket: a process, a TCP connection, or a connection to the forwarded ssh-agent.

use super::environment::Environment;
use super::launch::{Running, Streams, launch};
use super::launcher::Launcher;
use super::pump::{Source, pump, pump_shared, pump_terminal};
use super::{forward, supervisor, terminal};
use crate::link::client::{Serve, Socket};
use crate::link::frame;
use crate::link::message::{Exit, Process, Size, Start};
use crate::link::socket::{Receiver, Sender};
use bytes::Bytes;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The processes of a session's pod, as the link serves them.
pub struct Shells {
    /// Forks supervisors.
    pub launcher: Launcher,
    /// Surroundings of the session's processes.
    pub environment: Environment,
    /// Connections to forwarded ssh-agent sockets.
    pub forwards: forward::Pending,
}

impl Serve for Shells {
    async fn serve(&self, dial: impl Future<Output = Result<Socket, String>>, start: Start) -> Result<(), String> {
        match start {
            Start::Process(process) => serve_process(dial.await?, &process, self).await,
            Start::Connect { host, port } => {
                // First the target: the user's client is told whether it could be reached.
                let (reader, writer) = connect(&host, port).await?.into_split();
                bridge(dial.await?, reader, writer).await;
            }
            Start::AgentConnection { connection } => {
                let stream = self.forwards.take(connection).ok_or("that connection is gone")?;
                let (reader, writer) = stream.into_split();
                bridge(dial.await?, reader, writer).await;
            }
            Start::Power { .. } => return Err("a session's pod knows no power verbs".into()),
        }
        Ok(())
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let failed = |reason: String| format!("failed to connect to {host}:{port} from the pod: {reason}");
    match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(failure)) => Err(failed(failure.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", CONNECT_LIMIT.as_secs()))),
    }
}

/// Bytes both ways, with half-closes, until both directions ended or the socket broke.
async fn bridge(socket: Socket, reader: impl Source, mut writer: impl AsyncWrite + Unpin) {
    let (mut sender, mut receiver) = socket.split();
    let outgoing = async {
        pump(reader, frame::STDOUT, &mut sender).await?;
        sender.send(frame::encode(frame::CLOSE, &[frame::STDOUT])).await?;
        Ok(sender)
    };
    let inward = async {
        while let Some(frame) = receiver.next().await {
            match frame::decode(frame) {
                // It takes no more; what it says last is still read.
                Some((frame::STDIN, data)) if writer.write_all(&data).await.is_err() => return Ok(()),
                Some((frame::CLOSE, _)) => return writer.shutdown().await,
                _ => {}
            }
        }
        Err(std::io::ErrorKind::ConnectionAborted.into())
    };
    // A broken direction ends both; a finished one waits for the other.
    if let Ok((mut sender, ())) = tokio::try_join!(outgoing, inward) {
        sender.close().await;
        receiver.drain().await;
    }
}

async fn serve_process(socket: Socket, process: &Process, shells: &Shells) {
    match start_process(process, shells).await {
        Ok((running, listener)) => carry(socket, running, listener, process.keystrokes).await,
        Err(failure) => {
            let (sender, mut receiver) = socket.split();
            finish(&tokio::sync::Mutex::new(sender), &Exit::Failed(format!("failed to start a process in the pod: {failure}"))).await;
            receiver.drain().await;
        }
    }
}

async fn start_process(process: &Process, shells: &Shells) -> std::io::Result<(Running, Option<forward::Listener>)> {
    let listener = process.agent_forward.then(|| forward::Listener::new(&shells.forwards, shells.environment.run_folder())).transpose()?;
    let socket_path = listener.as_ref().map(forward::Listener::path);
    Ok((launch(&shells.launcher, process, &shells.environment, socket_path.as_deref()).await?, listener))
}

/// Tells how the process ended and closes the channel.
async fn finish(sender: &tokio::sync::Mutex<Sender>, exit: &Exit) {
    let mut sender = sender.lock().await;
    let status = serde_json::to_vec(exit).unwrap_or_default();
    let _ = sender.send(frame::encode(frame::STATUS, &status)).await;
    sender.close().await;
}

async fn carry(socket: Socket, running: Running, listener: Option<forward::Listener>, keystrokes: bool) {
    let Running { control, streams } = running;
    let (sender, mut receiver) = socket.split();
    let sender = tokio::sync::Mutex::new(sender);
    let (mut from_supervisor, to_supervisor) = control.into_split();
    let connections = async {
        match &listener {
            Some(listener) => listener.announce(&sender).await,
            None => std::future::pending().await,
        }
    };
    // Told by a queue of their own: a stalled output must not hold up what is typed.
    let (typed, told) = keystrokes.then(|| mpsc::channel::<Bytes>(KEYSTROKES_WAITING)).unzip();
    let keys = tell(told, &sender);
    let finished = async {
        let exit = output(&streams, &mut from_supervisor, &sender).await;
        finish(&sender, &exit).await;
    };
    // Whichever comes first drops the rest, and with it the supervisor's socket: everything of the channel dies.
    let has_ended = tokio::select! {
        () = finished => true,
        () = input(&streams, &mut receiver, to_supervisor, typed.as_ref()) => false,
        () = keys => false,
        () = connections => false,
    };
    drop((from_supervisor, streams, listener));
    if has_ended {
        receiver.drain().await;
    }
}

/// Sends output until the program has ended and its output is drained; gives how it ended.
async fn output(streams: &Streams, from_supervisor: &mut tokio::net::unix::OwnedReadHalf, sender: &tokio::sync::Mutex<Sender>) -> Exit {
    let ended = async {
        let mut message = Vec::new();
        let mut chunk = [0; 512];
        loop {
            let count = from_supervisor.read(&mut chunk).await.unwrap_or(0);
            message.extend_from_slice(chunk.get(..count).unwrap_or_default());
            if let Some(exit) = parse_exit(&message, count == 0) {
                return exit;
            }
        }
    };
    match streams {
        Streams::Terminal(master) => {
            let exited = tokio::sync::Notify::new();
            let ended = async {
                let exit = ended.await;
                exited.notify_one();
                exit
            };
            tokio::join!(ended, pump_terminal(master, sender, &exited)).0
        }
        Streams::Pipes { stdout, stderr, .. } => {
            let copies = async { tokio::join!(pump_shared(stdout, frame::STDOUT, sender), pump_shared(stderr, frame::STDERR, sender)) };
            // As sshd does: whoever inherited the pipes may still write; the channel ends at their end of file.
            let (exit, _) = tokio::join!(ended, copies);
            exit
        }
    }
}

/// What the supervisor said, once it is whole.
fn parse_exit(message: &[u8], at_end: bool) -> Option<Exit> {
    match message {
        [supervisor::EXITED, 0, code, ..] => Some(Exit::Code(*code)),
        [supervisor::EXITED, signal, _, ..] => Some(Exit::Signal(*signal)),
        // The text is followed by the exit of the process that failed to become the program.
        [supervisor::FAILED, text @ ..] if at_end || text.windows(3).any(|part| part == [supervisor::EXITED, 0, 127]) => {
            let text = text.strip_suffix(&[supervisor::EXITED, 0, 127]).unwrap_or(text);
            Some(Exit::Failed(String::from_utf8_lossy(text).into_owned()))
        }
        _ if at_end => Some(Exit::Failed("the process's supervisor ended".into())),
        _ => None,
    }
}

/// Frames of input that wait for the program: beside one that it does not take, the socket is still watched for its end.
const INPUT_WAITING: usize = 8;

/// Tells what was typed with the echo on; for ever.
async fn tell(told: Option<mpsc::Receiver<Bytes>>, sender: &tokio::sync::Mutex<Sender>) {
    if let Some(mut told) = told {
        while let Some(keys) = told.recv().await {
            let frame = frame::encode(frame::KEYSTROKES, &keys);
            if sender.lock().await.send(frame).await.is_err() {
                break;
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Keystrokes that wait to be told; more are not told. What the terminal echoed is in its output all the same.
const KEYSTROKES_WAITING: usize = 64;

/// Passes input, sizes and signals on, and tells in `typed` what was typed with the echo on; returns when the channel was closed by the user's
/// side.
async fn input(
    streams: &Streams,
    receiver: &mut Receiver,
    mut to_supervisor: tokio::net::unix::OwnedWriteHalf,
    typed: Option<&mpsc::Sender<Bytes>>,
) {
    let mut waiting: VecDeque<Bytes> = VecDeque::new();
    let mut ended = false;
    let mut closed = false;
    loop {
        if ended && waiting.is_empty() && !closed {
            closed = true;
            end_input(streams).await;
        }
        tokio::select! {
            frame = receiver.next(), if waiting.len() < INPUT_WAITING => {
                let Some(frame) = frame else { return };
                match frame::decode(frame) {
                    Some((frame::STDIN, data)) if !closed => waiting.push_back(data),
                    Some((frame::CLOSE, _)) => ended = true,
                    Some((frame::RESIZE, data)) => drop(serde_json::from_slice::<Size>(&data).map(|size| streams.resize(size))),
                    Some((frame::SIGNAL, data)) => drop(to_supervisor.write_all(data.get(..1).unwrap_or_default()).await),
                    _ => {}
                }
            }
            outcome = write_some(streams, waiting.front(), typed.is_some()) => {
                if let (Ok((count, echoed)), Some(front)) = (outcome, waiting.front_mut()) {
                    let taken = front.split_to(count);
                    if let Some(typed) = typed.filter(|_| echoed) {
                        let _ = typed.try_send(taken);
                    }
                    waiting.pop_front_if(|front| front.is_empty());
                } else {
                    // The program does not read any more.
                    waiting.clear();
                    closed = true;
                }
            }
        }
    }
}

/// Writes what the program takes now, and gives whether the terminal echoed before and after; waits for ever without anything to write. Nothing
/// is lost when it is dropped.
async fn write_some(streams: &Streams, data: Option<&Bytes>, look: bool) -> std::io::Result<(usize, bool)> {
    let Some(data) = data else { return std::future::pending().await };
    loop {
        match streams {
            Streams::Terminal(master) => {
                let mut ready = master.writable().await?;
                let before = look && terminal::echoes(master.get_ref());
                if let Ok(outcome) = ready.try_io(|master| rustix::io::write(master.get_ref(), data).map_err(Into::into)) {
                    return outcome.map(|count| (count, before && terminal::echoes(master.get_ref())));
                }
            }
            Streams::Pipes { stdin, .. } => {
                stdin.writable().await?;
                match stdin.try_write(data) {
                    Err(failure) if failure.kind() == std::io::ErrorKind::WouldBlock => {}
                    outcome => return outcome.map(|count| (count, false)),
                }
            }
        }
    }
}

/// End of input: a pipe is closed; a terminal gets its end-of-file character.
async fn end_input(streams: &Streams) {
    match streams {
        Streams::Terminal(_) => drop(write_some(streams, Some(&Bytes::from_static(&[4])), false).await),
        Streams::Pipes { stdin, .. } => close_pipe(stdin),
    }
}

/// Closes the pipe under tokio's feet by putting /dev/null in its place: the sender itself lives as long as the channel.
fn close_pipe(stdin: &tokio::net::unix::pipe::Sender) {
    super::fork::replace_by_null(stdin.as_fd());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_supervisor_says() {
        assert_eq!(parse_exit(&[supervisor::EXITED, 0, 7], false), Some(Exit::Code(7)));
        assert_eq!(parse_exit(&[supervisor::EXITED, 9, 0], false), Some(Exit::Signal(9)));
        assert_eq!(parse_exit(&[supervisor::EXITED], false), None);
        assert_eq!(parse_exit(b"fno shell", false), None);
        assert_eq!(parse_exit(b"fno shellx\0\x7f", false), Some(Exit::Failed("no shell".into())));
        assert!(matches!(parse_exit(b"", true), Some(Exit::Failed(_))));
    }
}
