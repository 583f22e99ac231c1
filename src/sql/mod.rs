//! Reading SQL, as far as it decides where a statement goes.

pub mod lexer;
pub mod name;
pub mod rows;
pub mod size;
mod stack;
pub mod tree;
pub mod write;
