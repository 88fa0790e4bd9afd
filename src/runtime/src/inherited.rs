//! Listeners that this process was started with: systemd's socket activation (`sd_listen_fds(3)`).  Whoever starts us
//! binds the address, so that a restart refuses nobody and a port below 1024 needs no privilege of ours.
//!
//! The variables are for this process alone, by the number in `LISTEN_PID`; the two that give them effect are taken
//! away once they are read, and the sockets are closed to whatever this process might start.

use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::SockRef;

/// What a socket unit's `FileDescriptorName=` may say.
const API: &str = "api";
const METRICS: &str = "metrics";

/// Why what was inherited cannot be served on.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// A socket whose name says nothing, beside another one.
    #[error("an inherited socket is called `{found}`; wanted is FileDescriptorName=api or FileDescriptorName=metrics")]
    UnknownName {
        /// Its name.
        found: String,
    },
    /// Two sockets for one thing.
    #[error("two inherited sockets are called `{name}`: pass one; [::] with BindIPv6Only=both takes IPv4 too")]
    Twice {
        /// Their name.
        name: &'static str,
    },
    /// Something else than a listening TCP socket.
    #[error(
        "the inherited socket `{name}` cannot be served on: {reason}; wanted is a ListenStream= of an IP address and port, \
         with Accept=no"
    )]
    Unusable {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A listener that somebody else bound, and its address.
#[derive(Debug)]
pub struct InheritedListener {
    pub(crate) listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The listeners that this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// For the API.
    pub api: Option<InheritedListener>,
    /// For the metrics page.
    pub metrics: Option<InheritedListener>,
}

impl Inherited {
    /// Takes what the environment names, which can be done once.
    ///
    /// # Errors
    /// Names that mean nothing here, and sockets that cannot be served on.
    pub fn take() -> Result<Inherited, InheritedError> {
        let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
        if !is_ours {
            return Ok(Inherited::default());
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut sockets = ListenFd::from_env();
        let mut inherited = Inherited::default();
        for (number, name) in roles(&names, sockets.len())?.into_iter().enumerate() {
            let listener = usable(&mut sockets, number).map_err(|reason| InheritedError::Unusable { name, reason })?;
            let place = if name == API { &mut inherited.api } else { &mut inherited.metrics };
            if place.replace(listener).is_some() {
                return Err(InheritedError::Twice { name });
            }
        }
        Ok(inherited)
    }

    /// The same listeners by other handles, for a second attempt to serve on them.
    ///
    /// # Errors
    /// [`InheritedError::Unusable`] when the system gives no further handle.
    pub fn try_clone(&self) -> Result<Inherited, InheritedError> {
        let clone = |inherited: &Option<InheritedListener>, name| match inherited {
            None => Ok(None),
            Some(InheritedListener { listener, address }) => match listener.try_clone() {
                Ok(listener) => Ok(Some(InheritedListener { listener, address: *address })),
                Err(error) => Err(InheritedError::Unusable { name, reason: error.to_string() }),
            },
        };
        Ok(Inherited { api: clone(&self.api, API)?, metrics: clone(&self.metrics, METRICS)? })
    }
}

/// What each of `count` sockets is for.  One that has no name of its own is the API, if it is the only one.
fn roles(names: &str, count: usize) -> Result<Vec<&'static str>, InheritedError> {
    let mut names = names.split(':');
    let role = |name: &str| match name {
        API => Ok(API),
        METRICS => Ok(METRICS),
        name if count == 1 && is_no_name(name) => Ok(API),
        name => Err(InheritedError::UnknownName { found: name.escape_debug().to_string() }),
    };
    (0..count).map(|_| role(names.next().unwrap_or_default())).collect()
}

/// What systemd calls a socket whose unit gives it no name: `unknown`, or the unit's own name.
fn is_no_name(name: &str) -> bool {
    name.is_empty() || name == "unknown" || name.ends_with(".socket")
}

fn usable(sockets: &mut ListenFd, number: usize) -> Result<InheritedListener, String> {
    let listener = sockets.take_tcp_listener(number).map_err(|error| error.to_string())?;
    let listener = listener.ok_or_else(|| "it is not there".to_owned())?;
    // With Accept=yes it would be a connection, on which nobody can be accepted.
    if !SockRef::from(&listener).is_listener().map_err(|error| error.to_string())? {
        return Err("nobody listens on it".to_owned());
    }
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    Ok(InheritedListener { listener, address })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_single_socket_without_a_name_is_the_api() {
        for names in ["", "unknown", "ampoule.socket", "api"] {
            assert_eq!(roles(names, 1).unwrap(), [API], "{names}");
        }
        assert_eq!(roles("metrics", 1).unwrap(), [METRICS]);
        assert_eq!(roles("metrics:api", 2).unwrap(), [METRICS, API]);
        assert_eq!(roles("", 0).unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn what_could_be_either_is_refused() {
        for (names, count) in [("", 2), ("api", 2), ("api:unknown", 2), ("web", 1), ("API", 1)] {
            assert!(matches!(roles(names, count), Err(InheritedError::UnknownName { .. })), "{names}");
        }
    }
}
