//! TOML and JSON as one tree, so that one table checks both.

use toml_edit::{Item, Table, TableLike, Value as TomlValue};

/// A value and where it starts, in bytes from the start of the text (TOML only).
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) tree: Tree,
    pub(crate) at: Option<usize>,
}

/// What TOML and JSON have in common.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
    Time(String),
}

/// One key of a table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Option<usize>,
    pub(crate) node: Node,
}

impl Node {
    /// Its kind, for "expected …, found …".
    pub(crate) fn found(&self) -> String {
        match &self.tree {
            Tree::Null => "nothing (null)".into(),
            Tree::Bool(value) => format!("{value}"),
            Tree::Int(value) => format!("the number {value}"),
            Tree::Float(value) => format!("the number {value}"),
            Tree::Text(text) => format!("{:?}", shorten(text)),
            Tree::List(_) => "a list".into(),
            Tree::Table(_) => "a table".into(),
            Tree::Time(text) => format!("the date or time {text}"),
        }
    }
}

/// Enough of a text for a message: attackers write long ones.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

/// The tree of a TOML document's root. The parser bounds the depth, so recursion is bounded too.
pub(crate) fn from_toml(root: &Table) -> Node {
    Node { tree: Tree::Table(table(root)), at: None }
}

fn table(table: &dyn TableLike) -> Vec<Entry> {
    let entry = |(name, item): (&str, &Item)| {
        let key_at = table.key(name).and_then(toml_edit::Key::span).map(|span| span.start);
        let node = toml_item(item)?;
        Some(Entry { key: name.to_owned(), key_at: key_at.or(node.at), node })
    };
    table.iter().filter_map(entry).collect()
}

fn toml_item(item: &Item) -> Option<Node> {
    let at = item.span().map(|span| span.start);
    let tree = match item {
        Item::None => return None,
        Item::Value(value) => return Some(toml_value(value)),
        Item::Table(inner) => Tree::Table(table(inner)),
        Item::ArrayOfTables(tables) => {
            let node = |inner: &Table| Node {
                tree: Tree::Table(table(inner)),
                at: inner.span().map(|span| span.start),
            };
            Tree::List(tables.iter().map(node).collect())
        }
    };
    Some(Node { tree, at })
}

fn toml_value(value: &TomlValue) -> Node {
    let at = value.span().map(|span| span.start);
    let tree = match value {
        TomlValue::String(text) => Tree::Text(text.value().clone()),
        TomlValue::Integer(number) => Tree::Int(i128::from(*number.value())),
        TomlValue::Float(number) => Tree::Float(*number.value()),
        TomlValue::Boolean(flag) => Tree::Bool(*flag.value()),
        TomlValue::Datetime(time) => Tree::Time(time.value().to_string()),
        TomlValue::Array(list) => Tree::List(list.iter().map(toml_value).collect()),
        TomlValue::InlineTable(inner) => Tree::Table(table(inner)),
    };
    Node { tree, at }
}

/// The tree of a JSON value.
pub(crate) fn from_json(value: &serde_json::Value) -> Node {
    use serde_json::Value;
    let tree = match value {
        Value::Null => Tree::Null,
        Value::Bool(flag) => Tree::Bool(*flag),
        Value::Number(number) => match number.as_i128() {
            Some(whole) => Tree::Int(whole),
            None => Tree::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Tree::Text(text.clone()),
        Value::Array(list) => Tree::List(list.iter().map(from_json).collect()),
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| Entry {
                key: key.clone(),
                key_at: None,
                node: from_json(value),
            };
            Tree::Table(map.iter().map(entry).collect())
        }
    };
    Node { tree, at: None }
}
