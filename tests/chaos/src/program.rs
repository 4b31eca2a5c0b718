//! The programs that a scenario starts, and the stage that panics, which the real one does not have.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;
use watershed::stage::{Context, Env, Error, Failure, Interval, Outlet, Payload, Processor, Settings};

/// Where [`play`] finds its arguments, one a line.
const ARGUMENTS: &str = "WATERSHED_CHAOS_ARGUMENTS";

/// The kind that panics.
pub const PANICS: &str = "panics";

/// Something that is `watershed`, or becomes it.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    /// What leads an executable to [`play`]; `None` for the real program.
    plays: Option<Vec<String>>,
}

impl Program {
    /// The real one.
    pub fn new(path: impl Into<PathBuf>) -> anyhow::Result<Program> {
        let path = path.into();
        ensure!(path.is_file(), "there is no program at {}: `cargo build --bin watershed`", path.display());
        // It is started in a directory of its own.
        let path = path.canonicalize()?;
        Ok(Program { path, plays: None })
    }

    /// The one beside this executable, or beside the directory it is in.
    pub fn beside_this() -> anyhow::Result<Program> {
        let own = std::env::current_exe().context("where is this executable?")?;
        let beside = own.parent().map(|directory| directory.join("watershed"));
        Program::new(beside.unwrap_or_default())
    }

    /// This executable, which calls [`play`] if it is started with `arguments`: the program with the kind
    /// [`PANICS`].
    pub fn panicking(arguments: &[&str]) -> anyhow::Result<Program> {
        let path = std::env::current_exe().context("where is this executable?")?;
        Ok(Program { path, plays: Some(arguments.iter().map(|argument| (*argument).into()).collect()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The program with these arguments; nothing in the environment configures it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| name.to_string_lossy().starts_with("WATERSHED_")) {
            command.env_remove(name);
        }
        match &self.plays {
            None => command.args(arguments),
            Some(leads) => command.args(leads).env(ARGUMENTS, arguments.join("\n")),
        };
        command.stdin(Stdio::null());
        command
    }

    /// Whether it has a kind, such as `processor/journal`.
    pub fn has(&self, kind: &str) -> anyhow::Result<bool> {
        let mut asked = self.command(&["components", kind]);
        let status = asked.stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(status.with_context(|| format!("cannot start {}", self.path.display()))?.success())
    }
}

/// Runs the program with the kind [`PANICS`] if this process was started by [`Program::panicking`], and gives its
/// exit code.
pub fn play() -> Option<u8> {
    let arguments = std::env::var(ARGUMENTS).ok()?;
    let arguments = std::iter::once("watershed").chain(arguments.lines()).map(OsString::from);
    let kinds = watershed::kinds().processor::<Panics>(PANICS, &[]);
    Some(watershed::program(arguments, kinds).code())
}

/// Changes nothing, and panics on the first message that comes when it has lived for as long as it may.
struct Panics {
    due: Instant,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PanicSettings {
    /// How long an incarnation lives.
    after: Interval,
}

impl Settings for PanicSettings {}

impl Processor for Panics {
    type Settings = PanicSettings;

    fn build(settings: &Arc<PanicSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self { due: Instant::now() + settings.after.0 })
    }

    #[allow(clippy::panic, reason = "it is what this stage is for")]
    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        // What was given to the outlet before a panic must not leave.
        outlet.send(payload);
        if Instant::now() >= self.due {
            std::panic::panic_any("injected fault");
        }
        Ok(())
    }
}
