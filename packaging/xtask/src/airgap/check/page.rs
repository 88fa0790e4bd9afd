//! Does what INSTALL.md says, command for command: a page that people follow without us at hand must be a program.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::{Delivery, VERSION, hand_out, run_alone};

/// Runs the page's commands in a folder that holds only what a customer is handed, and in a network that holds nothing.
/// What it says of training is the same as in `end-to-end.sh`, which trains; once is enough.
pub(super) fn check(delivery: &Delivery, next: &Delivery, work: &Path) -> Result<Vec<String>> {
    let folder = work.join("customer");
    hand_out(delivery, &folder)?;
    // The page is to be followed where the next release lies as well.
    hand_out(next, &folder)?;
    let commands = commands(&fs::read_to_string(delivery.tree.join("INSTALL.md"))?);
    ensure!(commands.len() > 4, "INSTALL.md has {} blocks of commands, more were written", commands.len());
    // Should a command fail, the demo that an earlier one started may not outlive the page.
    let program = format!("set -eu\ntrap 'kill \"${{DEMO:-}}\" 2>/dev/null || :' EXIT\n{}", commands.join("\n"));

    let variables = [("FINGERPRINT", delivery.fingerprint.as_str()), ("RELEASE", VERSION)];
    let (told, skips) = run_alone("INSTALL.md", &program, &variables, &folder)?;
    for words in ["Verified OK", "Verified: all", "\"chat.completion\"", "ampoule is removed from"] {
        ensure!(told.contains(words), "INSTALL.md was followed, and {words:?} is not in:\n{told}");
    }
    ensure!(
        !folder.join("ampoule").exists(),
        "INSTALL.md was followed to its end, and its installation is still there"
    );
    println!("INSTALL.md works as it is written, in {} blocks of commands", commands.len());
    Ok(skips)
}

/// The page's blocks of commands, in their order.
fn commands(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```sh\n") {
        let Some((block, behind)) = after.split_once("\n```\n") else { break };
        blocks.push(block.to_owned());
        rest = behind;
    }
    blocks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;
    use crate::process;

    const PAGE: &str = include_str!("../../../../../airgap/INSTALL.md");
    const END_TO_END: &str = include_str!("../../../../../airgap/end-to-end.sh");

    #[test]
    fn only_blocks_of_commands_are_run() {
        let page = "# Title\n\n```sh\none\n```\n\n```text\ntwo\n```\n\n```sh\nthree\nfour\n```\n";
        assert_eq!(commands(page), ["one", "three\nfour"]);
    }

    #[test]
    fn the_page_trains_as_the_end_to_end_does() {
        let settings = PAGE.lines().find_map(|line| line.find("--epochs").map(|start| &line[start..])).unwrap();
        assert!(END_TO_END.contains(settings), "end-to-end.sh does not train with {settings}");
        let threads = PAGE.lines().find_map(|line| line.strip_prefix("export CANDLE_NUM_THREADS")).unwrap();
        assert!(threads.split_whitespace().all(|one| END_TO_END.contains(one)), "end-to-end.sh has other threads");
        let pass_mark = PAGE.split_whitespace().skip_while(|word| *word != "--pass-mark").nth(1).unwrap();
        assert!(END_TO_END.contains(&format!("--pass-mark {pass_mark}")), "end-to-end.sh has another pass mark");
        let examples: Vec<_> = PAGE.split_whitespace().filter_map(|word| word.strip_prefix("examples/")).collect();
        assert_eq!(examples.len(), 4, "{examples:?}");
        for name in examples {
            let path = process::workspace_root().join("bundles/demo/lessons").join(name);
            assert!(path.is_file(), "there is no example {name}");
        }
    }

    #[test]
    fn a_demo_that_ends_is_not_waited_for() {
        let waits = PAGE.lines().find(|line| line.starts_with("until ")).unwrap();
        let program = format!("true & DEMO=$!; wait \"$DEMO\"; {waits}");
        let mut shell = Command::new("timeout");
        let waited = shell.args(["20", "sh", "-c", &program]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(waited.status.success(), "{waits}: {}", waited.status);
    }
}
