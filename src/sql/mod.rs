//! Reading SQL, as far as it decides where a statement goes.

pub mod answer;
pub mod computed;
pub mod defaults;
pub mod lexer;
pub mod name;
pub mod rows;
pub mod size;
pub mod source;
mod stack;
pub mod times;
mod tokens;
pub mod tree;
pub mod values;
pub mod wanted;
pub mod write;
