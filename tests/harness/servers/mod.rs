//! Real servers from the distribution's packages, started privately: on sockets and ports of their own, in folders
//! that go with them.

pub mod postgres;
