//! What the service manager is told, by the protocol of sd_notify(3): nothing where none asked to be told.
//!
//! systemd names its socket in `NOTIFY_SOCKET` (a leading `@`: in the abstract namespace) and, where the unit has a
//! `WatchdogSec`, a time in `WATCHDOG_USEC` within which it wants a sign of life.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;

use crate::admin::Watched;

/// How long the manager may take to make room for a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// Everything is served: after the start, and after every [`reloading`], whether that has changed anything or not.
pub(crate) fn ready() {
    tell("READY=1\nSTATUS=serving");
}

/// The configuration is being read again. Until the next [`ready`], the manager waits with whatever comes after.
pub(crate) fn reloading() {
    // Without the time the manager could not know that this answers its own signal, and would wait for ever.
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading"));
}

/// A drain has begun and ends within this time, which the manager's own patience is extended to.
pub(crate) fn stopping(within: Duration) {
    let micros = within.as_micros();
    tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=draining, {within:?} at most"));
}

/// One line for whoever asks `systemctl status`.
pub(crate) fn status(text: &str) {
    // A line of its own would be another assignment.
    tell(&format!("STATUS={}", text.replace('\n', " ")));
}

/// Gives the signs of life that the manager wants, twice as often as it wants them, while every thread of the engine
/// turns. Does so until it is dropped.
pub(crate) async fn keep_alive(watched: &Watched) -> Infallible {
    let Some(limit) = watchdog(|name| std::env::var(name).ok(), std::process::id()) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_alive = true;
    loop {
        ticks.tick().await;
        let stuck = watched.stuck();
        let is_alive = stuck.is_empty();
        match (was_alive, is_alive) {
            (true, false) => status(&format!("no longer turning: {}", stuck.join(", "))),
            (false, true) => status("serving"),
            _ => {}
        }
        if is_alive {
            tell("WATCHDOG=1");
        }
        was_alive = is_alive;
    }
}

/// The time within which a sign of life is wanted of the process with this id.
fn watchdog(variable: impl Fn(&str) -> Option<String>, id: u32) -> Option<Duration> {
    // Of another process' environment: it was the one to be watched, and has started this one.
    if variable("WATCHDOG_PID").is_some_and(|pid| pid.parse() != Ok(id)) {
        return None;
    }
    let micros = variable("WATCHDOG_USEC")?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

fn tell(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(Path::new(&socket), message) {
        let message = message.lines().next().unwrap_or_default();
        tracing::warn!(%error, socket = %socket.display(), message, "the service manager could not be told");
    }
}

fn send(to: &Path, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    connect(&socket, to)?;
    socket.send(message.as_bytes()).map(drop)
}

#[cfg(target_os = "linux")]
fn connect(socket: &UnixDatagram, to: &Path) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::SocketAddr;
    match to.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?),
        None => socket.connect(to),
    }
}

#[cfg(not(target_os = "linux"))]
fn connect(socket: &UnixDatagram, to: &Path) -> io::Result<()> {
    socket.connect(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_is_watched_gives_signs_of_life() {
        let asked = |pid: Option<&str>, micros: Option<&str>| {
            let variable = |name: &str| match name {
                "WATCHDOG_PID" => pid.map(str::to_owned),
                _ => micros.map(str::to_owned),
            };
            watchdog(variable, 42)
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(asked(Some("42"), Some("1000000")), second);
        assert_eq!(asked(None, Some("1000000")), second);
        for (pid, micros) in [
            (Some("43"), Some("1000000")),
            (Some("x"), Some("1000000")),
            (None, None),
            (None, Some("0")),
            (None, Some("-1")),
        ] {
            assert_eq!(asked(pid, micros), None, "{pid:?}, {micros:?}");
        }
    }

    #[test]
    fn both_kinds_of_socket_are_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(&path, "READY=1").unwrap();
        let mut heard = [0; 16];
        assert_eq!(socket.recv(&mut heard).unwrap(), 7);
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::net::SocketAddrExt as _;
            let name = format!("watershed/{}", std::process::id());
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
            let socket = UnixDatagram::bind_addr(&address).unwrap();
            send(Path::new(&format!("@{name}")), "STOPPING=1").unwrap();
            assert_eq!(socket.recv(&mut heard).unwrap(), 10);
        }
        drop(folder);
        assert!(send(&path, "READY=1").is_err());
    }
}
