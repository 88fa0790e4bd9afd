//! A file that crosses a UNIX socket as an open descriptor, beside the bytes: whoever asks opens it, with its own rights,
//! and the server, which can open nothing any more, reads what it was handed.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// The descriptor that came over a connection and was not taken yet.  There is room for one: a request has one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mailbox(Arc<Mutex<Option<OwnedFd>>>);

impl Mailbox {
    /// Takes what came last.
    pub(crate) fn take(&self) -> Option<File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(File::from)
    }

    fn put(&self, descriptor: OwnedFd) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(descriptor);
    }
}

/// A connection over which a descriptor may come or go.
#[derive(Debug)]
pub(crate) struct PassingStream {
    stream: UnixStream,
    /// What leaves with the next bytes.
    leaving: Option<File>,
    arrived: Mailbox,
}

impl PassingStream {
    /// One that sends this file with its first bytes, and takes none.
    pub(crate) fn sending(stream: UnixStream, file: Option<File>) -> PassingStream {
        PassingStream { stream, leaving: file, arrived: Mailbox::default() }
    }

    /// One that takes what comes, and where it can be had.
    pub(crate) fn receiving(stream: UnixStream) -> (PassingStream, Mailbox) {
        let arrived = Mailbox::default();
        (PassingStream { stream, leaving: None, arrived: arrived.clone() }, arrived)
    }
}

impl AsyncRead for PassingStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let PassingStream { stream, arrived, .. } = self.get_mut();
        loop {
            ready!(stream.poll_read_ready(context))?;
            let into = buffer.initialize_unfilled();
            match stream.try_io(Interest::READABLE, || receive(stream, into, arrived)) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for PassingStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let PassingStream { stream, leaving, .. } = self.get_mut();
        // A descriptor travels on a byte, so it waits until there is one.
        let Some(file) = leaving.as_ref().filter(|_| !bytes.is_empty()) else {
            return Pin::new(stream).poll_write(context, bytes);
        };
        loop {
            ready!(stream.poll_write_ready(context))?;
            match stream.try_io(Interest::WRITABLE, || send(stream, bytes, file)) {
                Ok(written) => {
                    *leaving = None;
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

fn send(stream: &UnixStream, bytes: &[u8], file: &File) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("there is no room for a descriptor"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?)
}

fn receive(stream: &UnixStream, into: &mut [u8], arrived: &Mailbox) -> io::Result<usize> {
    // Whatever is sent beyond the room for one, the kernel closes.
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(into)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptors.for_each(|descriptor| arrived.put(descriptor));
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_file_arrives_with_the_bytes_that_were_sent_with_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"sealed").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let (left, right) = UnixStream::pair().unwrap();
        let mut sender = PassingStream::sending(left, Some(file));
        let (mut receiver, mailbox) = PassingStream::receiving(right);
        assert!(mailbox.take().is_none());
        sender.write_all(b"first").await.unwrap();
        sender.write_all(b" second").await.unwrap();
        drop(sender);
        let mut bytes = String::new();
        receiver.read_to_string(&mut bytes).await.unwrap();
        assert_eq!(bytes, "first second");
        let mut content = String::new();
        mailbox.take().unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "sealed");
        assert!(mailbox.take().is_none(), "it was handed out twice");
    }
}
