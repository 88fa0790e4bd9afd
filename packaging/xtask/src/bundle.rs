//! Makes a bundle from its recipe.
pub(crate) fn run(_name: &str) -> anyhow::Result<()> {
    anyhow::bail!("no recipe yet")
}
