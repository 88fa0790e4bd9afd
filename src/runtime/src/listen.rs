//! From a plan to an open listener.  The plan's three cases become the three cases that the server accepts; there is no
//! fourth.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::config::{ListenPlan, MetricsPlan};
use crate::error::Error;
use crate::http::Listener;
use crate::tls;

/// A listener that is not open yet, with everything that it needs from files already read.
#[derive(Debug)]
pub enum PlannedListener {
    /// Plain HTTP that only this host can reach.
    LoopbackPlain(SocketAddr),
    /// Plain HTTP that other hosts can reach, by its named opt-out.
    NamedPlain(SocketAddr),
    /// HTTPS.
    Tls(SocketAddr, Arc<ServerConfig>),
}

impl PlannedListener {
    /// Reads the TLS files of the plan, if it has any.
    ///
    /// # Errors
    /// [`Error::Tls`] when they cannot be used.
    pub fn prepare(plan: &ListenPlan) -> Result<PlannedListener, Error> {
        Ok(match plan {
            ListenPlan::LoopbackPlain(address) => PlannedListener::LoopbackPlain(*address),
            ListenPlan::NamedPlain(address) => PlannedListener::NamedPlain(*address),
            ListenPlan::Tls(address, files) => PlannedListener::Tls(*address, tls::server_config(files)?),
        })
    }

    /// Opens the listener and says at which address.
    ///
    /// # Errors
    /// [`Error::Listen`] when the address is taken or not ours.
    pub async fn open(self) -> Result<(Listener, SocketAddr), Error> {
        match self {
            PlannedListener::LoopbackPlain(address) => {
                let (listener, address) = bind(address).await?;
                Ok((Listener::LoopbackPlain(listener), address))
            }
            PlannedListener::NamedPlain(address) => {
                let (listener, address) = bind(address).await?;
                tracing::warn!(%address, "plain HTTP that other hosts can reach: keys and prompts cross the network readable");
                Ok((Listener::NamedPlain(listener), address))
            }
            PlannedListener::Tls(address, config) => {
                let (listener, address) = bind(address).await?;
                Ok((Listener::Tls(listener, config), address))
            }
        }
    }
}

/// Opens the metrics listener, if there is to be one.
///
/// # Errors
/// [`Error::Listen`] when the address is taken or not ours.
pub async fn open_metrics(plan: Option<MetricsPlan>) -> Result<Option<(TcpListener, SocketAddr)>, Error> {
    match plan {
        Some(MetricsPlan { address }) => Ok(Some(bind(address).await?)),
        None => Ok(None),
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let refused = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}
