//! A disk of our own: a small tmpfs in a mount namespace that nobody else sees, held by a child.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// What the holder runs: says when the disk is there, and keeps it until its own input ends.
const HOLD: &str = r#"mount -t tmpfs -o "size=$1" tmpfs "$0" && echo ready && exec cat"#;

/// A small disk. It goes with its value.
pub struct Disk {
    holder: Child,
    at: TempDir,
    size: String,
}

/// The file that fills it up.
const BALLAST: &str = "ballast";

impl Disk {
    /// A disk of `bytes`. An error says why this machine has none: namespaces for users, or a root who may mount, are
    /// needed, and the tools `unshare` and `nsenter`.
    pub fn new(bytes: u64) -> anyhow::Result<Disk> {
        let at = tempfile::tempdir()?;
        let size = bytes.to_string();
        let mut holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", HOLD])
            .arg(at.path())
            .arg(&size)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("no `unshare`")?;
        let mut said = String::new();
        let stdout = holder.stdout.take().context("a child without output")?;
        BufReader::new(stdout).read_line(&mut said)?;
        // From here on it is ended with the value.
        let mut disk = Disk { holder, at, size };
        if said.trim() != "ready" {
            let mut why = String::new();
            if let Some(stderr) = disk.holder.stderr.take() {
                BufReader::new(stderr).read_line(&mut why)?;
            }
            anyhow::bail!("no tmpfs in a namespace: {}", why.trim());
        }
        Ok(disk)
    }

    /// Where it is, for those who are in its namespace.
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// Where it is for us.
    pub fn seen_from_here(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.at.path().strip_prefix("/").unwrap_or(self.at.path()))
    }

    /// The same command, in the namespace of the disk. Its process keeps its id.
    pub fn enter(&self, command: &Command) -> Command {
        let holder = self.holder.id().to_string();
        entering(&["--target", &holder, "--user", "--mount", "--preserve-credentials"], command)
    }

    /// Takes what is left of it; how many bytes that was.
    pub fn fill(&self) -> io::Result<u64> {
        let mut ballast =
            File::options().create(true).append(true).open(self.seen_from_here().join(BALLAST))?;
        let mut written = 0;
        // The last bytes fit only in small pieces.
        for size in [64 << 10, 4 << 10] {
            let piece = vec![0_u8; size];
            while ballast.write_all(&piece).is_ok() {
                written += piece.len() as u64;
            }
        }
        Ok(written)
    }

    /// Gives back what [`Disk::fill`] took.
    pub fn free(&self) -> io::Result<()> {
        let ballast = self.seen_from_here().join(BALLAST);
        // A child that is just being started may have it open, too: then its end alone gives nothing back yet.
        File::options().write(true).truncate(true).open(&ballast)?;
        fs::remove_file(ballast)
    }

    /// Makes it read-only, or writable again.
    pub fn read_only(&self, read_only: bool) -> anyhow::Result<()> {
        let mode = if read_only { "ro" } else { "rw" };
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{mode},size={}", self.size)]).arg(self.path());
        let status = self.enter(&mount).status()?;
        ensure!(status.success(), "the disk can not be remounted {mode}: {status}");
        Ok(())
    }
}

/// The same command by way of `nsenter`. Its process keeps its id.
pub fn entering(namespace: &[&str], command: &Command) -> Command {
    let mut entering = Command::new("nsenter");
    entering.args(namespace).arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => entering.env(name, value),
            None => entering.env_remove(name),
        };
    }
    entering.stdin(Stdio::null());
    entering
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fills_up_and_turns_read_only() {
        let disk = match Disk::new(1 << 20) {
            Ok(disk) => disk,
            Err(why) => return println!("skipped: {why:#}"),
        };
        assert!(disk.fill().unwrap() > 900 << 10);
        let file = disk.seen_from_here().join("file");
        assert!(fs::write(&file, [0; 8 << 10]).is_err());
        disk.free().unwrap();
        fs::write(&file, [0; 8 << 10]).unwrap();
        disk.read_only(true).unwrap();
        assert!(fs::write(&file, "").is_err());
        disk.read_only(false).unwrap();
        let mut inside = Command::new("ls");
        let listed = disk.enter(inside.arg(disk.path())).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "file\n");
        assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0, "seen outside of its namespace");
    }
}
