//! Does what INSTALL.md says, command for command: a page that people follow without us at hand must be a program.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::{Delivery, hand_out, run_alone};

/// Runs the page's commands in a folder that holds only what a customer is handed, and in a network that holds nothing.
pub(super) fn check(delivery: &Delivery, work: &Path) -> Result<Vec<String>> {
    let folder = work.join("customer");
    hand_out(delivery, &folder)?;
    let commands = commands(&fs::read_to_string(delivery.tree.join("INSTALL.md"))?);
    ensure!(commands.len() > 4, "INSTALL.md has {} blocks of commands, more were written", commands.len());
    // Should a command fail, the demo that an earlier one started may not outlive the page.
    let program = format!("set -eu\ntrap 'kill \"${{DEMO:-}}\" 2>/dev/null || :' EXIT\n{}", commands.join("\n"));

    let (told, skips) = run_alone("INSTALL.md", &program, &[("FINGERPRINT", &delivery.fingerprint)], &folder)?;
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
    use super::*;

    #[test]
    fn only_blocks_of_commands_are_run() {
        let page = "# Title\n\n```sh\none\n```\n\n```text\ntwo\n```\n\n```sh\nthree\nfour\n```\n";
        assert_eq!(commands(page), ["one", "three\nfour"]);
    }
}
