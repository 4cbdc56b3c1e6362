//! The documents as the tests read them: blocks of commands are run as they stand there, manifests applied.
//!
//! A comment before a block of commands says what becomes of it:
//!
//! - `<!-- run: NAME -->`: the test that asks for the commands of this name runs it. Two blocks of one name have the same words;
//! - `<!-- run by: WHAT -->`: the block is what WHAT runs, such as continuous integration;
//! - `<!-- elsewhere: WHY -->`: it needs what this machine has not.

mod repository;

pub use repository::{commands, root};

/// A document of the repository.
#[derive(Debug)]
pub struct Document {
    /// Its path, seen from the root of the repository.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// A block between fences.
#[derive(Debug)]
pub struct Block {
    /// What follows the fence: `console`, `yaml`, `text`, or nothing.
    pub language: String,
    /// The comment on the line before it, without its brackets.
    pub mark: Option<String>,
    /// Its lines.
    pub text: String,
    /// The line of its fence, from 1.
    pub line: usize,
}

impl Document {
    /// Its blocks between fences, in their order.
    #[must_use]
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        let mut before = "";
        for (number, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    let mark = before.strip_prefix("<!-- ").and_then(|mark| mark.strip_suffix(" -->"));
                    open = Some(Block { language: language.into(), mark: mark.map(str::to_owned), text: String::new(), line: number + 1 });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.text.extend([line, "\n"]),
                (None, None) => {}
            }
            before = line;
        }
        blocks
    }

    /// The commands that are marked with this name.
    #[must_use]
    pub fn commands(&self, name: &str) -> Option<String> {
        let marked = |block: &Block| block.mark.as_deref().and_then(|mark| mark.strip_prefix("run: ")) == Some(name);
        self.blocks().into_iter().find(marked).map(|block| block.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_language_their_mark_and_their_lines() {
        let text = "a\n\n<!-- run: x -->\n```console\nls\n\npwd\n```\n```yaml\na: 1\n```\n".to_owned();
        let blocks = Document { name: "x".into(), text }.blocks();
        let told: Vec<_> =
            blocks.iter().map(|block| (block.language.as_str(), block.mark.as_deref(), block.text.as_str(), block.line)).collect();
        assert_eq!(told, [("console", Some("run: x"), "ls\n\npwd\n", 4), ("yaml", None, "a: 1\n", 9)]);
    }
}
