//! From a plan to an open listener, in two steps. The address is taken before the model is loaded, so that a port that
//! somebody else has is found in a second; connections are accepted only afterwards, and are refused until then.
//!
//! A listener that was inherited has its address already and takes connections from the start; they wait until the
//! model is ready.
//!
//! The plan's three cases become the three cases that the server accepts; there is no fourth.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::{ListenPlan, MetricsPlan};
use crate::error::Error;
use crate::http::Listener;
use crate::inherited::InheritedListener;
use crate::tls;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A listener that has no address yet, with everything that it needs from files already read.
#[derive(Debug)]
pub struct PlannedListener {
    place: Place,
    protocol: Protocol,
}

/// Where a listener's address comes from.
#[derive(Debug)]
enum Place {
    /// It is still to be taken.
    Address(SocketAddr),
    /// Somebody else took it for us.
    Inherited(InheritedListener),
}

#[derive(Debug)]
enum Protocol {
    /// Plain HTTP that only this host can reach.
    LoopbackPlain,
    /// Plain HTTP that other hosts can reach, by its named opt-out.
    NamedPlain,
    /// HTTPS.
    Tls(Arc<ServerConfig>),
}

impl PlannedListener {
    /// Reads the TLS files of the plan, if it has any.
    ///
    /// # Errors
    /// [`Error::Tls`] when they cannot be used.
    pub fn prepare(plan: &ListenPlan) -> Result<PlannedListener, Error> {
        let (address, protocol) = match plan {
            ListenPlan::LoopbackPlain(address) => (*address, Protocol::LoopbackPlain),
            ListenPlan::NamedPlain(address) => (*address, Protocol::NamedPlain),
            ListenPlan::Tls(address, files) => (*address, Protocol::Tls(tls::server_config(files)?)),
        };
        Ok(PlannedListener { place: Place::Address(address), protocol })
    }

    /// The same on a listener that was inherited, for which the plan was made.
    ///
    /// # Errors
    /// [`Error::Tls`] when the TLS files cannot be used.
    pub fn inherit(plan: &ListenPlan, listener: InheritedListener) -> Result<PlannedListener, Error> {
        let PlannedListener { protocol, .. } = PlannedListener::prepare(plan)?;
        Ok(PlannedListener { place: Place::Inherited(listener), protocol })
    }

    /// Takes the address.
    ///
    /// # Errors
    /// [`Error::Listen`] when it is taken or not ours.
    pub fn bind(self) -> Result<BoundListener, Error> {
        let bound = match self.place {
            Place::Address(address) => BoundSocket::bind(address)?,
            Place::Inherited(listener) => BoundSocket::inherited(listener),
        };
        Ok(BoundListener { bound, protocol: self.protocol })
    }
}

/// A listener that has its address and accepts no connection yet.
#[derive(Debug)]
pub struct BoundListener {
    bound: BoundSocket,
    protocol: Protocol,
}

impl BoundListener {
    /// Begins to accept connections, and says at which address.
    ///
    /// # Errors
    /// [`Error::Listen`] when somebody else accepts connections there by now.
    pub fn listen(self) -> Result<(Listener, SocketAddr), Error> {
        let (listener, address) = self.bound.listen()?;
        let listener = match self.protocol {
            Protocol::LoopbackPlain => Listener::LoopbackPlain(listener),
            Protocol::NamedPlain => {
                tracing::warn!(%address, "plain HTTP that other hosts can reach: keys and prompts cross the network readable");
                Listener::NamedPlain(listener)
            }
            Protocol::Tls(config) => Listener::Tls(listener, config),
        };
        Ok((listener, address))
    }
}

#[derive(Debug)]
enum Socket {
    Ours(TcpSocket),
    Inherited(std::net::TcpListener),
}

/// A socket that has its address and accepts no connection yet.
#[derive(Debug)]
pub struct BoundSocket {
    socket: Socket,
    address: SocketAddr,
}

impl BoundSocket {
    /// Takes the address of the metrics listener.
    ///
    /// # Errors
    /// [`Error::Listen`] when it is taken or not ours.
    pub fn for_metrics(plan: &MetricsPlan) -> Result<BoundSocket, Error> {
        BoundSocket::bind(plan.address)
    }

    /// A socket that was inherited.
    pub fn inherited(listener: InheritedListener) -> BoundSocket {
        BoundSocket { address: listener.address, socket: Socket::Inherited(listener.listener) }
    }

    fn bind(address: SocketAddr) -> Result<BoundSocket, Error> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Without it, a restarted server would wait for the connections of the one before it to be forgotten.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(BoundSocket { socket: Socket::Ours(socket), address })
        };
        bind().map_err(|source| Error::Listen { address, source })
    }

    /// Begins to accept connections, and says at which address.
    ///
    /// # Errors
    /// [`Error::Listen`] when somebody else accepts connections there by now.
    pub fn listen(self) -> Result<(TcpListener, SocketAddr), Error> {
        let address = self.address;
        let listener = match self.socket {
            Socket::Ours(socket) => socket.listen(BACKLOG),
            Socket::Inherited(listener) => TcpListener::from_std(listener),
        };
        Ok((listener.map_err(|source| Error::Listen { address, source })?, address))
    }
}
