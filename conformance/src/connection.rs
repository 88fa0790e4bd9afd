//! A connection for bytes of our own choosing: requests that no HTTP client would send.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use crate::reply::Reply;

/// How long an answer may keep us waiting.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// More than any answer to a hand-made request has.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// An open connection, with TLS or without.
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    /// Opens a connection to `host`; with TLS if there is a configuration of it.
    pub(crate) fn open(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> anyhow::Result<Connection> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let socket = TcpStream::connect((bare, port)).with_context(|| format!("cannot connect to {host}:{port}"))?;
        socket.set_read_timeout(Some(READ_PATIENCE))?;
        socket.set_write_timeout(Some(READ_PATIENCE))?;
        socket.set_nodelay(true)?;
        let Some(config) = tls else { return Ok(Connection::Plain(socket)) };
        let name = ServerName::try_from(bare.to_owned()).context("the host is no name for TLS")?;
        let session = ClientConnection::new(config.clone(), name)?;
        Ok(Connection::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    /// Writes what it can of `bytes` and reads until the other side closes.  A server may answer and close before it has
    /// read everything, so a failed write is no failure here; nor is a close without TLS's farewell.
    pub(crate) fn exchange(mut self, bytes: &[u8]) -> Vec<u8> {
        let _ = self.write_all(bytes).and_then(|()| self.flush());
        self.rest()
    }

    /// As [`Connection::exchange`], after telling the other side that no more will come.
    pub(crate) fn exchange_all(mut self, bytes: &[u8]) -> Vec<u8> {
        let _ = self.write_all(bytes).and_then(|()| self.flush());
        if let Connection::Plain(socket) = &self {
            // It fails where the other side has closed already.
            let _ = socket.shutdown(Shutdown::Write);
        }
        self.rest()
    }

    /// Writes `bytes`, which promise a body and stop short of it, and reads the one answer that comes all the same.  The
    /// server may go on waiting for what was promised, so its close is not waited for.
    pub(crate) fn first_reply(mut self, bytes: &[u8]) -> anyhow::Result<Reply> {
        self.write_all(bytes)?;
        self.flush()?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.read(&mut buffer)?;
            answer.extend_from_slice(&buffer[..count]);
            let reply = Reply::parse(&answer);
            let length = |reply: &Reply| reply.header("content-length").and_then(|length| length.parse().ok());
            match reply {
                Some(reply) if length(&reply).is_some_and(|length: usize| reply.body.len() >= length) => {
                    return Ok(reply);
                }
                Some(reply) if count == 0 => return Ok(reply),
                None if count == 0 => bail!("the connection was closed without an answer"),
                Some(_) | None => {}
            }
        }
    }

    fn rest(self) -> Vec<u8> {
        let mut answer = Vec::new();
        let _ = self.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
        answer
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(socket) => socket.read(buffer),
            Connection::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(socket) => socket.write(buffer),
            Connection::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Connection::Plain(socket) => socket.flush(),
            Connection::Tls(stream) => stream.flush(),
        }
    }
}
