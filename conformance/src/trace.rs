//! Reads what `strace -f` wrote and tells which calls reach out, and which open a file or start a program.
//!
//! A server takes its listeners once, then only accepts.  So the line that begins with the first `accept` divides the
//! trace: after it there is no reason for a new socket, for a connection, or for a datagram to an address.  A connection
//! is never right, before it neither.  And once it accepts, a server has everything open that it will ever read, and
//! starts nothing.  A call that was refused counts as well: somebody asked for it.

/// Calls that make a socket or give it another end.
const REACHING: [&str; 4] = ["socket(", "socketpair(", "bind(", "connect("];

/// Calls that reach out only if they name an address.
const SENDING: [&str; 3] = ["sendto(", "sendmsg(", "sendmmsg("];

/// Calls that open a file by its name, or make another program or process.
const OPENING: [&str; 8] = ["open(", "openat(", "openat2(", "creat(", "execve(", "execveat(", "fork(", "vfork("];

/// What a trace shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    /// How many connections were accepted: a trace without any is a trace of nothing.
    pub(crate) accepted: usize,
    /// The calls that should not be there, as strace wrote them.
    pub(crate) calls: Vec<String>,
}

/// Judges a trace of `%network`.
pub(crate) fn egress(trace: &str) -> Trace {
    judge(trace, |call, is_serving| {
        let reaches =
            call.starts_with("connect(") || (is_serving && REACHING.iter().any(|name| call.starts_with(name)));
        let sends = SENDING.iter().any(|name| call.starts_with(name)) && call.contains("sa_family=");
        reaches || sends
    })
}

/// Judges a trace of files and programs.
pub(crate) fn opened(trace: &str) -> Trace {
    judge(trace, |call, is_serving| {
        let opens = OPENING.iter().any(|name| call.starts_with(name));
        is_serving && (opens || call.starts_with("<... open"))
    })
}

fn judge(trace: &str, is_wrong: impl Fn(&str, bool) -> bool) -> Trace {
    let mut found = Trace::default();
    for line in trace.lines() {
        // With -f each line begins with the thread's number.
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let is_accept = call.starts_with("accept(") || call.starts_with("accept4(");
        if is_accept {
            found.accepted += 1;
        }
        if is_wrong(call, found.accepted > 0) {
            found.calls.push(call.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_only_accepts_reaches_nowhere() {
        let trace = "\
10 socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_IP) = 9
10 bind(9, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr(\"127.0.0.1\")}, 16) = 0
10 listen(9, 1024) = 0
11 accept4(9, {sa_family=AF_INET, sin_port=htons(2)}, [128 => 16], SOCK_CLOEXEC) = 10
11 recvfrom(10, \"GET\", 3, 0, NULL, NULL) = 3
12 sendto(10, \"HTTP\", 4, MSG_NOSIGNAL, NULL, 0) = 4
12 accept4(9,  <unfinished ...>
12 <... accept4 resumed>0x7f, 0x7f, SOCK_CLOEXEC) = -1 EAGAIN
";
        assert_eq!(egress(trace), Trace { accepted: 2, calls: Vec::new() });
    }

    #[test]
    fn a_server_that_serves_opens_nothing_more() {
        let before = "7 execve(\"/ampoule\", [], []) = 0\n7 openat(AT_FDCWD, \"/a.bundle\", O_RDONLY) = 3\n";
        let serving = format!("{before}7 accept4(4, NULL, NULL, 0) = 5\n");
        assert_eq!(opened(&serving), Trace { accepted: 1, calls: Vec::new() });
        for call in [
            "openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY) = -1 EPERM (Operation not permitted)",
            "open(\"/tmp/x\", O_WRONLY|O_CREAT, 0666) = 6",
            "execve(\"/bin/sh\", [\"sh\"], []) = -1 EPERM (Operation not permitted)",
            "vfork( <unfinished ...>",
            "openat(AT_FDCWD, \"/proc/cpuinfo\", O_RDONLY|O_CLOEXEC <unfinished ...>",
            "<... openat resumed>)              = 9",
        ] {
            assert_eq!(opened(&format!("{serving}8 {call}\n")).calls, [call]);
        }
    }

    #[test]
    fn each_way_out_is_seen() {
        for (call, before_too) in [
            ("connect(9, {sa_family=AF_INET, sin_port=htons(443)}, 16) = 0", true),
            ("socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP) = 11", false),
            ("socketpair(AF_UNIX, SOCK_STREAM, 0, [1, 2]) = 0", false),
            ("bind(9, {sa_family=AF_INET}, 16) = 0", false),
            ("sendto(9, \"x\", 1, 0, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 1", true),
            ("sendmsg(9, {msg_name={sa_family=AF_INET}, msg_iov=[]}, 0) = 1", true),
            ("connect(9, {sa_family=AF_UNIX}, 16 <unfinished ...>", true),
        ] {
            let serving = format!("7 accept4(3, NULL, NULL, 0) = 4\n8 {call}\n");
            assert_eq!(egress(&serving).calls, [call]);
            assert_eq!(egress(&format!("8 {call}\n")).calls.len(), usize::from(before_too), "{call}");
        }
    }
}
