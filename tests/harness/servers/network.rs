//! A network of a server's own, which can be cut: whatever is sent then is lost without a word, as by a broken switch.
//!
//! A network namespace with one pair of virtual devices, reached from this machine alone. Making one needs root.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result, process};

/// How often another address is tried where one is taken.
const TRIES: u32 = 8;

/// A network. Dropping it takes it away.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// The third number of its addresses.
    third: u8,
}

impl Network {
    /// A network with this machine in it, and whatever is started there.
    pub fn new() -> Result<Self> {
        let mut made = Self::make();
        for _ in 1..TRIES {
            if made.is_ok() {
                break;
            }
            made = Self::make();
        }
        made
    }

    fn make() -> Result<Self> {
        // Names of devices have 15 characters at most.
        let nonce = blake3::hash(process::nonce().as_bytes());
        let network = Self { name: format!("dm{}", &nonce.to_hex()[..10]), third: nonce.as_bytes()[31] };
        let (name, third) = (&network.name, network.third);
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {name}h type veth peer name {name}g netns {name}"))?;
        ip(&format!("addr add 10.231.{third}.1/30 dev {name}h"))?;
        ip(&format!("-n {name} addr add 10.231.{third}.2/30 dev {name}g"))?;
        ip(&format!("link set {name}h up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        network.mend()?;
        Ok(network)
    }

    /// Where a server in it listens.
    pub const fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 231, self.third, 2)
    }

    /// What runs a program in it, in front of the program.
    pub(super) fn prefix(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// From now on everything is lost.
    pub fn cut(&self) -> Result<()> {
        ip(&format!("-n {0} link set {0}g down", self.name))
    }

    /// From now on everything arrives again.
    pub fn mend(&self) -> Result<()> {
        ip(&format!("-n {0} link set {0}g up", self.name))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // One that is not there any more is as good. Its devices go with it.
        let _ = ip(&format!("link del {}h", self.name));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<()> {
    let path = Path::new("/usr/sbin/ip");
    let output =
        Command::new(path).args(arguments.split(' ')).output().map_err(Error::io("running", path))?;
    if output.status.success() {
        return Ok(());
    }
    let answer = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Nonsense { from: format!("`ip {arguments}`"), answer })
}
