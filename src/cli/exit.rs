//! Exit codes. They are an interface: unit files and pipelines branch on them, so none may change its meaning.

use std::process::ExitCode;

use crate::engine::Ended;

/// What `--help` says about them.
pub(crate) const HELP: &str = "\
Exit codes:
  0    drained: everything that was accepted has been sent on, or is on disk for the next start
  1    the configuration or an argument is wrong
  2    could not start: an address in use, a component that failed to start
  3    drained incompletely: something accepted was still held at the deadline, or is still owed
  4    a critical component kept failing; the rest was drained
  5    something on disk is damaged; what can be read was
  130  a second signal ended the drain";

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything went as it should: what a journal keeps, the next start goes on with.
    Drained,
    /// A configuration or an argument is wrong.
    Config,
    /// A correct configuration could not be started.
    Start,
    /// Something accepted was not sent on.
    Incomplete,
    /// Something the process can not do without kept failing.
    Critical,
    /// Something on disk can not be read.
    Damaged,
    /// A second signal: no time for a drain.
    Interrupted,
}

// === impl Exit ===

impl Exit {
    /// The number the system is told.
    pub const fn code(self) -> u8 {
        match self {
            Self::Drained => 0,
            Self::Config => 1,
            Self::Start => 2,
            Self::Incomplete => 3,
            Self::Critical => 4,
            Self::Damaged => 5,
            // As a shell says it of a program that SIGINT ended.
            Self::Interrupted => 130,
        }
    }

    /// Ends the process here and now.
    pub(crate) fn now(self) -> ! {
        std::process::exit(i32::from(self.code()))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl From<&Ended> for Exit {
    fn from(ended: &Ended) -> Self {
        match ended {
            Ended::Drained => Self::Drained,
            Ended::Incomplete { .. } => Self::Incomplete,
            Ended::Critical { .. } => Self::Critical,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_help() {
        let all = [
            Exit::Drained,
            Exit::Config,
            Exit::Start,
            Exit::Incomplete,
            Exit::Critical,
            Exit::Damaged,
            Exit::Interrupted,
        ];
        let told: Vec<u8> =
            HELP.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        assert_eq!(told, all.map(Exit::code));
    }

    #[test]
    fn every_end_of_an_engine_has_a_code_of_its_own() {
        assert_eq!(Exit::from(&Ended::Drained), Exit::Drained);
        assert_eq!(Exit::from(&Ended::Incomplete { unfinished: vec![], lost: 1 }), Exit::Incomplete);
        let critical = Ended::Critical { name: "a".into(), message: "b".into() };
        assert_eq!(Exit::from(&critical), Exit::Critical);
    }
}
