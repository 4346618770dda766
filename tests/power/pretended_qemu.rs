//! A pretended QEMU: speaks QMP as a real one does, with its unpleasant habits (measured; reference/cluster.md, section 11).

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What it has seen and is.
#[derive(Default)]
pub struct Seen {
    pub status: String,
    pub commands: Vec<String>,
}

pub struct PretendedQemu {
    pub seen: Arc<Mutex<Seen>>,
    pub socket: String,
}

impl PretendedQemu {
    /// Starts one in `status`. After `quit` it comes back when the file `started` appears.
    pub fn start(stage: &crate::Stage, status: &str) -> Self {
        let seen = Arc::new(Mutex::new(Seen { status: status.to_owned(), commands: vec![] }));
        let socket = stage.text("qmp.sock");
        let (path, started, ours) = (PathBuf::from(&socket), stage.path("started"), Arc::clone(&seen));
        let mut listener = UnixListener::bind(&path).expect("bind");
        // Ends with the test's process.
        std::thread::spawn(move || {
            loop {
                while serve(&listener, &ours) {}
                drop(listener);
                std::fs::remove_file(&path).expect("remove");
                crate::stage::wait_for("the start program", || started.exists());
                std::fs::remove_file(&started).expect("remove");
                ours.lock().expect("lock").status = String::from("running");
                listener = UnixListener::bind(&path).expect("bind");
            }
        });
        Self { seen, socket }
    }

    /// Accepts and says nothing.
    pub fn silent(stage: &crate::Stage) -> Self {
        let socket = stage.text("qmp.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                held.push(stream);
            }
        });
        Self { seen: Arc::default(), socket }
    }

    pub fn commands(&self) -> Vec<String> {
        let quiet = ["qmp_capabilities", "query-status"];
        let mut commands = self.seen.lock().expect("lock").commands.clone();
        commands.retain(|command| !quiet.contains(&command.as_str()));
        commands
    }
}

/// Serves one client, and only then the next; false after `quit`.
fn serve(listener: &UnixListener, seen: &Mutex<Seen>) -> bool {
    let (mut stream, _) = listener.accept().expect("accept");
    let event = |name: &str| json!({"timestamp": {"seconds": 1, "microseconds": 2}, "event": name, "data": {"guest": false}});
    say(&mut stream, &json!({"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}));
    for line in BufReader::new(stream.try_clone().expect("clone")).lines() {
        let Ok(line) = line else { return true };
        let asked: Value = serde_json::from_str(&line).expect("JSON");
        let command = asked["execute"].as_str().expect("a command").to_owned();
        let mut seen = seen.lock().expect("lock");
        seen.commands.push(command.clone());
        // An event that nobody waits for, before every answer.
        say(&mut stream, &event("RTC_CHANGE"));
        let answer = match command.as_str() {
            "query-status" => json!({"status": seen.status, "running": seen.status == "running", "singlestep": false}),
            "human-monitor-command" => json!("RIP=ffffffff HLT=1\r\n"),
            "query-cpus-fast" | "query-block" => json!([]),
            "cont" => {
                seen.status = String::from("running");
                json!({})
            }
            "qmp_capabilities" | "system_reset" | "quit" => json!({}),
            _ => {
                let words = "There is no console to take a screendump from";
                say(&mut stream, &json!({"id": asked["id"], "error": {"class": "GenericError", "desc": words}}));
                continue;
            }
        };
        say(&mut stream, &json!({"return": answer, "id": asked["id"]}));
        match command.as_str() {
            "system_reset" => {
                if seen.status != "running" {
                    seen.status = String::from("prelaunch");
                }
                say(&mut stream, &event("RESET"));
            }
            "quit" => return false,
            _ => {}
        }
    }
    true
}

fn say(stream: &mut UnixStream, value: &Value) {
    // The client may be gone already.
    let _ = writeln!(stream, "{value}\r");
}
