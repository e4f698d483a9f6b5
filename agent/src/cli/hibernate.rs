//! `dormouse hibernate`: writes a sandbox's state to disk and ends its QEMU.

use clap::ValueEnum;

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::{HibernateRequest, HibernationMethod};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// How to save
    #[arg(long, value_enum, default_value_t = Method::Auto)]
    method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// The cheapest that the sandbox's QEMU, memory and disks allow
    Auto,
    /// RAM stays in its files, only device state is written
    Shared,
    /// RAM is written to a file at fixed offsets
    MappedRam,
    /// RAM is written into a qcow2 image
    Internal,
}

impl From<Method> for HibernationMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::Auto => Self::Auto,
            Method::Shared => Self::Shared,
            Method::MappedRam => Self::MappedRam,
            Method::Internal => Self::Internal,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let method = HibernationMethod::from(args.method).into();
    let call = async |mut agent: Agent, header| {
        agent.hibernate(HibernateRequest { header: Some(header), method }).await
    };
    context.carry_out_long(&args.asked, call).await
}
