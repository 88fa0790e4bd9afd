//! The command line of the harness: what it lists, and what it says when there is nothing to judge.
#![allow(clippy::unwrap_used)]

mod support;

use support::harness;

fn refused(arguments: &[&str], word: &str) {
    let output = harness(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
    assert!(told.contains(word), "{arguments:?}: {told}");
}

#[test]
fn each_profile_names_what_it_needs() {
    refused(&["run"], "--target");
    refused(&["run", "--profile", "full", "--binary", "/bin/true"], "--trust-root");
    refused(&["run", "--target", "https://127.0.0.1:1"], "--ca-file");
    refused(&["run", "--target", "127.0.0.1:1"], "must be a URL");
    refused(&["run", "--case", "AMP-NONE"], "AMP-NONE");
    refused(&["run", "--case", "AMP-TAM"], "--profile full");
    refused(&["run", "--target", "http://127.0.0.1:1", "--api-key-file", "/nonexistent/key"], "/nonexistent/key");
}

#[test]
fn the_list_names_every_promise_of_the_specification() {
    let output = harness(&["run", "--profile", "full", "--list"]).output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let promised = include_str!("../SPECIFICATION.md").lines().filter(|line| line.starts_with("| AMP-"));
    let ids: Vec<_> = promised.map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(listed.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(), ids);
}
