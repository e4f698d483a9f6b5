//! stub
use super::*;
use crate::metering::Reply;
use crate::sandbox::command::Method;
use crate::sandbox::machine::SnapshotRemoval;
use crate::sandbox::snapshot::{Manifest, SnapshotStore};
pub(super) fn prepare(_s: &mut State, _t: Token, _m: Method, _my: &ActorRef<Message>) {}
pub(super) fn write(_s: &mut State, _t: Token, _m: Method, _n: Stamp, _my: &ActorRef<Message>) {}
pub(super) fn verify(_s: &SnapshotStore, _m: Manifest, _r: Reply) {}
pub(super) fn remove(_s: &mut State, _r: SnapshotRemoval) {}
