//! The client's side of the control socket: for the command line, tests and benches.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;

use crate::proto::control_client::ControlClient;

/// Connects to the agent that listens on the unix socket `socket`. The error says that it cannot be reached.
pub async fn client(socket: &Path) -> Result<ControlClient<Channel>, Error> {
    channel(socket).await.map(ControlClient::new)
}

/// A channel to whatever listens on the unix socket `socket`, for the health and reflection services.
pub async fn channel(socket: &Path) -> Result<Channel, Error> {
    let socket: PathBuf = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is a formality: the connector decides where to.
    Endpoint::from_static("http://dormouse").connect_with_connector(connector).await
}
