//! A real browser that does what a person would: opens a page, reads it, clicks.
//!
//! It is spoken to in the DevTools protocol through two pipes (`--remote-debugging-pipe`): messages
//! are JSON, each ended by a NUL.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use super::{Dir, Running, TestCommand};

/// How long the browser may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, if there is one.
pub fn program() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let paths: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    names.iter().find_map(|name| paths.iter().map(|dir| dir.join(name)).find(|path| path.is_file()))
}

/// A browser with one page open. Dropping it ends it.
pub struct Browser {
    _running: Running,
    to: File,
    from: Receiver<Value>,
    sent: u64,
    page: String,
}

impl Browser {
    /// Opens a page.
    pub fn open(program: &PathBuf, dir: &Dir, url: &str) -> Browser {
        let [to, from] = ["browser-in", "browser-out"].map(|name| dir.path().join(name));
        for path in [&to, &from] {
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("cannot make a pipe");
        }
        let line = "exec \"$0\" --headless=new --no-sandbox --disable-gpu --remote-debugging-pipe \
                    --user-data-dir=\"$PWD/browser-profile\" about:blank 3<browser-in 4>browser-out";
        let running = TestCommand::new("sh", dir.path()).args(["-c", line]).args([program]).patience(600).start();
        // In the order in which the shell opens the other ends.
        let to = File::options().write(true).open(to).expect("cannot write to the browser");
        let from = BufReader::new(File::open(from).expect("cannot read from the browser"));
        let (send, messages) = channel();
        std::thread::spawn(move || {
            let whole = from.split(0).map_while(Result::ok);
            whole.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).try_for_each(|message| send.send(message))
        });
        let mut browser = Browser { _running: running, to, from: messages, sent: 0, page: String::new() };
        let target = browser.ask("Target.createTarget", json!({ "url": url }))["targetId"].clone();
        let attached = browser.ask("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.page = attached["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    /// Sends a message and waits for its answer.
    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if !self.page.is_empty() {
            message["sessionId"] = json!(self.page);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser is there");
        loop {
            let answer = self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no answer to {method}: {e}"));
            if answer["id"] == self.sent {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// What an expression is in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        let answer = self.ask("Runtime.evaluate", asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The text of the first element that a selector finds.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({selector:?})?.textContent ?? ''"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks in the middle of the first element that a selector finds, as a mouse does.
    pub fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let at = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.ask("Input.dispatchMouseEvent", at);
        }
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let text = if key == "Enter" { "\r" } else { "" };
            self.ask(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": 13 }),
            );
        }
    }
}
