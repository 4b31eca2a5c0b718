//! A network of our own: machines by namespaces that hang on one bridge, and what may befall it.
//!
//! The bridge is in a namespace too, so that nobody's firewall is asked; this process has one end of a cable to it. All is
//! named after the process and goes with its value; what a process has left that is no more, the next one removes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

use crate::disk::entering;
use crate::scenario::Skipped;

/// How the namespaces of all drivers begin.
const OURS: &str = "ws-chaos-";

/// Machines and a bridge between them.
pub struct Net {
    /// How the names of its namespaces begin.
    prefix: String,
    /// Our end of the cable.
    cable: String,
    /// The first three bytes of all addresses, of the block that is set aside for such trials (RFC 2544).
    block: [u8; 3],
    machines: u8,
    /// Machines that nobody is on any more.
    spare: Vec<Machine>,
}

/// A machine: its processes see one network interface and what is done to it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Where it is reached.
    pub address: IpAddr,
    namespace: String,
    hub: String,
    port: String,
}

/// What may befall a machine's network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// Packets to and from these vanish.
    Drop(IpAddr),
    /// Connections to these are refused.
    Reject(IpAddr),
    /// One packet in so many is lost, both ways.
    Loss(u32),
    /// So many kilobits a second go out.
    Slow(u32),
    /// The cable is out.
    Unplugged,
}

static NETS: AtomicU32 = AtomicU32::new(0);

impl Net {
    /// A bridge without machines. [`Skipped`] says why this machine has none: it takes root, network namespaces, and the
    /// tools `ip`, `iptables`, `tc` and `nsenter`.
    pub fn new() -> anyhow::Result<Net> {
        sweep();
        let (own, number) = (std::process::id(), NETS.fetch_add(1, Ordering::Relaxed));
        let block = own.wrapping_mul(7).wrapping_add(number) % 512;
        let net = Net {
            prefix: format!("{OURS}{own}-{number}-"),
            cable: format!("wsc{own}x{number}"),
            block: [198, 18 + (block >> 8) as u8, block as u8],
            machines: 0,
            spare: Vec::new(),
        };
        let hub = net.hub();
        for tool in ["iptables", "tc", "nsenter"] {
            run(tool, "--version").or_else(|_| run(tool, "-V")).map_err(skipped)?;
        }
        run("ip", &format!("netns add {hub}")).map_err(skipped)?;
        run("ip", &format!("-n {hub} link add bridge type bridge")).map_err(skipped)?;
        run("ip", &format!("link add {} type veth peer name driver netns {hub}", net.cable))?;
        run("ip", &format!("-n {hub} link set driver master bridge up"))?;
        run("ip", &format!("-n {hub} link set bridge up"))?;
        run("ip", &format!("addr add {}/24 dev {}", net.address(1), net.cable))?;
        run("ip", &format!("link set {} up", net.cable))?;
        Ok(net)
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    fn address(&self, host: u8) -> IpAddr {
        let [a, b, c] = self.block;
        Ipv4Addr::new(a, b, c, host).into()
    }

    /// Where this process is, for the machines.
    pub fn driver(&self) -> IpAddr {
        self.address(1)
    }

    /// A machine that nobody is on; with it goes its address to whoever is next.
    pub fn machine(&mut self) -> anyhow::Result<Machine> {
        if let Some(spare) = self.spare.pop() {
            return Ok(spare);
        }
        self.machines =
            self.machines.checked_add(1).filter(|count| *count < 200).context("too many machines")?;
        let (address, hub) = (self.address(self.machines + 1), self.hub());
        let (namespace, port) =
            (format!("{}{}", self.prefix, self.machines), format!("port{}", self.machines));
        run("ip", &format!("netns add {namespace}"))?;
        run("ip", &format!("-n {namespace} link add eth0 type veth peer name {port} netns {hub}"))?;
        run("ip", &format!("-n {namespace} addr add {address}/24 dev eth0"))?;
        run("ip", &format!("-n {namespace} link set lo up"))?;
        run("ip", &format!("-n {namespace} link set eth0 up"))?;
        run("ip", &format!("-n {hub} link set {port} master bridge up"))?;
        Ok(Machine { address, namespace, hub, port })
    }

    /// Takes a machine back that nobody is on any more.
    pub fn spare(&mut self, machine: Machine) {
        self.spare.push(machine);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The other ends go with their namespaces.
        let _ = run("ip", &format!("link del {}", self.cable));
        for machine in 1..=self.machines {
            let _ = run("ip", &format!("netns del {}{machine}", self.prefix));
        }
        let _ = run("ip", &format!("netns del {}", self.hub()));
    }
}

impl Machine {
    /// The same command, on this machine. Its process keeps its id.
    pub fn enter(&self, command: &Command) -> Command {
        entering(&[&format!("--net=/run/netns/{}", self.namespace)], command)
    }

    fn run(&self, tool: &str, arguments: &str) -> anyhow::Result<()> {
        let mut inside = Command::new(tool);
        finish(self.enter(inside.args(arguments.split(' '))))
    }

    /// Has this befall it, beside what already has.
    pub fn suffer(&self, trouble: Trouble) -> anyhow::Result<()> {
        let rules = match trouble {
            Trouble::Drop(other) => {
                vec![format!("OUTPUT -d {other} -j DROP"), format!("INPUT -s {other} -j DROP")]
            }
            Trouble::Reject(other) => {
                vec![format!("OUTPUT -p tcp -d {other} -j REJECT --reject-with tcp-reset")]
            }
            Trouble::Loss(one_in) => {
                let random = format!("-m statistic --mode random --probability {}", 1.0 / f64::from(one_in));
                ["INPUT", "OUTPUT"].map(|chain| format!("{chain} {random} -j DROP")).into()
            }
            Trouble::Slow(kilobits) => {
                let shape = format!("rate {kilobits}kbit burst 16kb latency 200ms");
                return self.run("tc", &format!("qdisc replace dev eth0 root tbf {shape}"));
            }
            Trouble::Unplugged => return self.plug("down"),
        };
        rules.iter().try_for_each(|rule| self.run("iptables", &format!("-w -A {rule}")))
    }

    fn plug(&self, state: &str) -> anyhow::Result<()> {
        run("ip", &format!("-n {} link set {} {state}", self.hub, self.port))
    }

    /// Makes all well again.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.run("iptables", "-w -F")?;
        // There may be none.
        let _ = self.run("tc", "qdisc del dev eth0 root");
        self.plug("up")
    }
}

/// Removes what drivers have left that are no more.
fn sweep() {
    let Ok(listed) = Command::new("ip").args(["netns", "list"]).stderr(Stdio::null()).output() else {
        return;
    };
    for name in String::from_utf8_lossy(&listed.stdout).lines().filter_map(|line| line.split(' ').next()) {
        let owner = name.strip_prefix(OURS).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            let _ = run("ip", &format!("netns del {name}"));
        }
    }
}

fn run(tool: &str, arguments: &str) -> anyhow::Result<()> {
    let mut command = Command::new(tool);
    command.args(arguments.split(' '));
    finish(command)
}

fn finish(mut command: Command) -> anyhow::Result<()> {
    let told = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !told.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&told.stderr).trim());
    }
    Ok(())
}

fn skipped(why: anyhow::Error) -> Skipped {
    Skipped(format!("no network of our own: {why:#}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn reaches(machine: &Machine, to: IpAddr, port: u16) -> bool {
        let mut connect = Command::new("timeout");
        connect.args(["3", "bash", "-c", &format!("exec 3<>/dev/tcp/{to}/{port}")]);
        machine.enter(&connect).stderr(Stdio::null()).status().unwrap().success()
    }

    #[test]
    fn machines_reach_us_unless_something_befalls_them() {
        let mut net = match Net::new() {
            Ok(net) => net,
            Err(why) => return println!("skipped: {why:#}"),
        };
        let machine = net.machine().unwrap();
        let listener = TcpListener::bind((net.driver(), 0)).unwrap();
        let (us, port) = (net.driver(), listener.local_addr().unwrap().port());
        assert!(reaches(&machine, us, port));
        for trouble in [Trouble::Drop(us), Trouble::Reject(us), Trouble::Unplugged] {
            machine.suffer(trouble).unwrap();
            assert!(!reaches(&machine, us, port), "{trouble:?}");
            machine.heal().unwrap();
            // A kernel without a core to spare is slow to see that a cable is back.
            assert!((0..10).any(|_| reaches(&machine, us, port)), "healed of {trouble:?}");
        }
        for trouble in [Trouble::Loss(10), Trouble::Slow(1_000)] {
            machine.suffer(trouble).unwrap();
            machine.heal().unwrap();
        }
        let (namespace, cable) = (machine.namespace.clone(), net.cable.clone());
        drop(net);
        let left = |arguments: &[&str]| {
            String::from_utf8(Command::new("ip").args(arguments).output().unwrap().stdout).unwrap()
        };
        assert!(!left(&["netns", "list"]).contains(&namespace) && !left(&["link"]).contains(&cable));
    }
}
