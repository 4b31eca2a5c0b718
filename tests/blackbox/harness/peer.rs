//! Real counterparts as children of the test: `tests/peers/start` becomes them (docs/testing.md, Peers).

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use watershed_testkit::wait_until;

/// How long a peer may take for anything: on a busy machine, a Java server a minute to start.
const PATIENCE: Duration = Duration::from_secs(180);

/// What `start` ends with where the peer is not installed.
const ABSENT: i32 = 69;

/// A counterpart. Killed when dropped.
pub struct Peer {
    name: &'static str,
    command: Command,
    child: Child,
    folder: TempDir,
}

impl Peer {
    /// Starts it with these arguments and variables, and a folder of its own as `DIR`.
    pub fn spawn(name: &'static str, arguments: &[String], environment: &[(&str, String)]) -> Peer {
        Self::spawn_with(name, arguments, environment, &[])
    }

    /// The same, with these files in its `DIR`.
    pub fn spawn_with(
        name: &'static str,
        arguments: &[String],
        environment: &[(&str, String)],
        files: &[(&str, String)],
    ) -> Peer {
        let readable = Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().permissions(readable).tempdir().unwrap();
        let stream = |name: &str| File::create(folder.path().join(name)).unwrap();
        let directory = folder.path().join("DIR");
        fs::create_dir(&directory).unwrap();
        for (file, text) in files {
            fs::write(directory.join(file), text).unwrap();
        }
        let start = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/start");
        let mut command = Command::new(start);
        command.arg(name).args(arguments).env("DIR", directory).envs(environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(stream("stdout")).stderr(stream("stderr"));
        let child = command.spawn().unwrap();
        Peer { name, command, child, folder }
    }

    /// Kills it where it stands, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again as it was started, on what it has left in its `DIR`.
    pub fn start_again(&mut self) {
        self.child = self.command.spawn().unwrap();
    }

    /// The peer once it is `ready`; `None` where it is not installed and need not be.
    pub async fn ready(mut self, mut ready: impl AsyncFnMut() -> bool) -> Option<Peer> {
        let mut ended = None;
        let is_ready = wait_until(
            async || {
                ended = self.child.try_wait().unwrap();
                ended.is_some() || ready().await
            },
            PATIENCE,
        );
        assert!(is_ready.await, "{} is never ready: {}", self.name, self.log());
        match ended {
            None => Some(self),
            Some(status) if self.is_absent(status) => None,
            Some(status) => panic!("{} ended with {status}: {}", self.name, self.log()),
        }
    }

    /// What it has printed when it has ended well; `None` where it is not installed and need not be.
    pub async fn output(mut self) -> Option<String> {
        let status = self.ended().await;
        if self.is_absent(status) {
            return None;
        }
        assert!(status.success(), "{} ended with {status}: {}", self.name, self.log());
        Some(self.read("stdout"))
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(&mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        self.ended().await;
    }

    /// Its `DIR`.
    pub fn directory(&self) -> PathBuf {
        self.folder.path().join("DIR")
    }

    async fn ended(&mut self) -> ExitStatus {
        let ended = wait_until(async || self.child.try_wait().unwrap().is_some(), PATIENCE).await;
        assert!(ended, "{} does not end: {}", self.name, self.log());
        self.child.wait().unwrap()
    }

    /// Says so, unless `WATERSHED_PEERS_REQUIRED` lists it: then its absence is a failure.
    fn is_absent(&self, status: ExitStatus) -> bool {
        if status.code() != Some(ABSENT) {
            return false;
        }
        let required = std::env::var("WATERSHED_PEERS_REQUIRED").unwrap_or_default();
        let log = self.log();
        assert!(!required.split_whitespace().any(|name| name == self.name), "required: {log}");
        println!("skipped: {}", log.trim());
        true
    }

    fn log(&self) -> String {
        self.read("stdout") + &self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join(name)).unwrap()).into_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
