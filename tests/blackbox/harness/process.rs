//! The program as a child of the test.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use watershed_testkit::{reserve, wait_until};

use super::kinds::{Rule, faults, registry};
use super::{PATIENCE, http};

/// The file a program reads, in its directory.
const CONFIG: &str = "test.toml";

/// Where [`flaky_program`] finds its arguments, one a line.
const ARGUMENTS: &str = "BLACKBOX_ARGUMENTS";

/// A running `watershed`. Killed when dropped.
pub struct Program {
    child: Child,
    directory: TempDir,
    /// Where it serves health, if it was started by [`Program::run`].
    pub health: SocketAddr,
    /// Where it serves metrics, likewise.
    pub metrics: SocketAddr,
}

/// How a program that ended by itself did.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A file for the program to read, in a directory of its own.
pub fn file(name: &str, text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn command(directory: &TempDir) -> Command {
    command_of(env!("CARGO_BIN_EXE_watershed").as_ref(), directory)
}

fn command_of(program: &Path, directory: &TempDir) -> Command {
    let mut command = Command::new(program);
    let inherited = std::env::vars_os().map(|(name, _)| name);
    for name in inherited.filter(|name| name.to_string_lossy().starts_with("WATERSHED_")) {
        command.env_remove(name);
    }
    let stream = |name: &str| File::create(directory.path().join(name)).unwrap();
    command.current_dir(directory).stdin(Stdio::null()).stdout(stream("stdout")).stderr(stream("stderr"));
    command
}

/// The arguments of `run` with endpoints of its own.
fn run(health: SocketAddr, metrics: SocketAddr) -> Vec<String> {
    let endpoints = [("service.health.endpoint", health), ("service.telemetry.metrics.address", metrics)];
    let sets = endpoints.map(|(key, address)| ["--set".to_owned(), format!("{key}=\"{address}\"")]);
    ["run", "--config", CONFIG].map(str::to_owned).into_iter().chain(sets.into_iter().flatten()).collect()
}

/// No test by itself: what [`Program::run_flaky`] starts, the program with kinds that it does not ship.
#[test]
fn flaky_program() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    faults("program").set(Rule::Always);
    let arguments = std::iter::once("watershed").chain(arguments.lines()).map(Into::into);
    let exit = watershed::program(arguments, registry());
    std::process::exit(exit.code().into());
}

/// Runs the program with `arguments` to its end.
pub async fn finish(arguments: &[&str]) -> Finished {
    Program::spawn(arguments).finished().await
}

impl Program {
    /// Starts the program with these arguments, in an empty directory.
    pub fn spawn(arguments: &[&str]) -> Program {
        Self::spawn_by(|command| command.args(arguments))
    }

    fn spawn_by(prepare: impl FnOnce(&mut Command) -> &mut Command) -> Program {
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(&directory);
        prepare(&mut command);
        let child = command.spawn().unwrap();
        Program { child, directory, health: reserve(), metrics: reserve() }
    }

    /// `run` with this configuration and endpoints of its own. Returns at once.
    pub fn start(toml: &str) -> Program {
        Self::start_by(toml, |command| command)
    }

    /// As [`Program::start`]; `prepare` has the last word on the command.
    pub fn start_by(toml: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) -> Program {
        let (directory, _) = file(CONFIG, toml);
        let (health, metrics) = (reserve(), reserve());
        let mut command = command(&directory);
        prepare(command.args(run(health, metrics)));
        let child = command.spawn().unwrap();
        Program { child, directory, health, metrics }
    }

    /// As [`Program::start_flaky`]; returns when it is ready.
    pub async fn run_flaky(toml: &str) -> Program {
        let mut program = Self::start_flaky(toml);
        program.ready().await;
        program
    }

    /// The program with the kinds of the tests, `flaky` among them panicking always. Returns at once.
    pub fn start_flaky(toml: &str) -> Program {
        Self::start_flaky_by(toml, |command| command)
    }

    /// As [`Program::start_flaky`]; `prepare` has the last word on the command.
    pub fn start_flaky_by(toml: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) -> Program {
        let (directory, _) = file(CONFIG, toml);
        let (health, metrics) = (reserve(), reserve());
        let mut command = command_of(&std::env::current_exe().unwrap(), &directory);
        command.args(["harness::process::flaky_program", "--exact", "--nocapture"]);
        prepare(command.env(ARGUMENTS, run(health, metrics).join("\n")));
        let child = command.spawn().unwrap();
        Program { child, directory, health, metrics }
    }

    /// As [`Program::start`]; returns when it is ready.
    pub async fn run(toml: &str) -> Program {
        let mut program = Self::start(toml);
        program.ready().await;
        program
    }

    /// Puts another configuration in the place of the one that it was started with.
    pub fn write(&self, toml: &str) {
        self.write_as(CONFIG, toml);
    }

    /// Puts a file into its directory, at once and as a whole.
    pub fn write_as(&self, name: &str, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.directory.path().join(name)).unwrap();
    }

    /// Waits until health says so.
    pub async fn ready(&mut self) {
        let health = self.health;
        let ready = wait_until(
            async || {
                self.has_ended() || http::get(health, "/").await.is_some_and(|(status, _)| status == 200)
            },
            PATIENCE,
        );
        assert!(ready.await && !self.has_ended(), "never ready: {}", self.stderr());
    }

    /// Sends a signal: `TERM`, `INT`, `HUP`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success(), "could not signal {id}");
    }

    /// Waits for its end and gives its exit code; `None` where a signal ended it.
    pub async fn exit(&mut self) -> Option<i32> {
        assert!(wait_until(async || self.has_ended(), PATIENCE).await, "did not end: {}", self.stderr());
        self.child.wait().unwrap().code()
    }

    /// Waits for its end.
    pub async fn finished(mut self) -> Finished {
        let code = self.exit().await;
        Finished { code, stdout: self.read("stdout"), stderr: self.stderr() }
    }

    /// What it has written to its log so far.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join(name)).unwrap()).into_owned()
    }

    /// The end of a pipe that was made for its log.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
