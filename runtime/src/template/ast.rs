//! What a template is made of. Chains (`a + b + c`, `x.a.b|f`, `elif`) are lists, not nests, so the depth of a tree
//! is the depth of its brackets and blocks, which the parser bounds.

use super::text::Text;

/// A statement with the line it starts on.
#[derive(Debug)]
pub(super) struct Stmt {
    pub(super) line: u32,
    pub(super) kind: StmtKind,
}

#[derive(Debug)]
pub(super) enum StmtKind {
    Data(Text),
    Print(Expr),
    /// Conditions with their blocks, in order, and the block for none of them.
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    For(Box<For>),
    Set(Target, Expr),
    SetBlock(Target, Vec<Filter>, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    Macro(usize),
    CallBlock(Box<CallBlock>),
    FilterBlock(Vec<Filter>, Vec<Stmt>),
    /// A block that changes nothing about its content: `generation`, `block`, `autoescape`.
    Plain(Vec<Stmt>),
    Do(Expr),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Expr,
    pub(super) only_if: Option<Expr>,
    pub(super) body: Vec<Stmt>,
    pub(super) otherwise: Vec<Stmt>,
}

/// `{% call(params) macro(args) %}body{% endcall %}`: the body is the macro `caller`.
#[derive(Debug)]
pub(super) struct CallBlock {
    pub(super) caller: usize,
    pub(super) call: Expr,
}

/// A macro. Macros are kept in a list beside the tree; values and statements name them by number.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: String,
    pub(super) params: Vec<(String, Option<Expr>)>,
    pub(super) body: Vec<Stmt>,
}

/// What an assignment assigns to.
#[derive(Debug)]
pub(super) enum Target {
    Name(String),
    /// An attribute of a namespace.
    Attr(String, String),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Filter {
    pub(super) name: String,
    pub(super) args: Args,
}

/// Arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub(super) by_place: Vec<Expr>,
    pub(super) by_name: Vec<(String, Expr)>,
    /// `*list` and `**dict`.
    pub(super) more: Option<Box<Expr>>,
    pub(super) more_named: Option<Box<Expr>>,
}

#[derive(Debug)]
pub(super) enum Expr {
    Const(Const),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    /// Operators of one precedence, applied from the left.
    Binary(Box<Expr>, Vec<(BinOp, Expr)>),
    /// `a < b <= c`: all must hold.
    Compare(Box<Expr>, Vec<(CmpOp, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Concat(Vec<Expr>),
    /// `value if test else other`, the last possibly missing.
    If(Box<[Expr; 2]>, Option<Box<Expr>>),
    /// A value and what is done to it, in order.
    Post(Box<Expr>, Vec<(u32, Post)>),
}

#[derive(Debug)]
pub(super) enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
}

#[derive(Debug)]
pub(super) enum Post {
    Attr(String),
    Item(Expr),
    /// `[start:stop:step]`.
    Slice(Box<[Option<Expr>; 3]>),
    Call(Args),
    Filter(Filter),
    /// `is` or `is not` a test.
    Test(bool, Filter),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BinOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CmpOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}
