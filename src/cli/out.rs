//! Words for whoever called. Standard output and error may be closed by the time there is something to say
//! (`watershed graph | head`); that nobody reads on is no reason to fail.

use std::fmt::Display;
use std::io::Write as _;

/// A line on standard output: what was asked for.
pub(crate) fn print(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line on standard error: what went wrong, or is good to know.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
