//! Values of JSON, written down as JSON.

use serde_core::Serialize;
use serde_json::{Map, Value, to_value};

/// A [`Value`], as `serde_json::json!` makes it from an object or a list. A field is one call here,
/// and a page of code there: with some 200 fields that is a thirtieth of the program.
macro_rules! json {
    ({ $($inside:tt)* }) => {{
        #[allow(unused_mut, reason = "an empty object")]
        let mut object = $crate::json::Object::default();
        $crate::json::json!(@object object $($inside)*);
        object.done()
    }};
    ([ $($inside:tt)* ]) => {{
        #[allow(unused_mut, reason = "an empty list")]
        let mut list = $crate::json::List::default();
        $crate::json::json!(@list list $($inside)*);
        list.done()
    }};
    (@object $to:ident) => {};
    (@object $to:ident $key:tt : { $($value:tt)* } $(, $($rest:tt)*)?) => {
        $to.put($key, &$crate::json::json!({ $($value)* }));
        $($crate::json::json!(@object $to $($rest)*);)?
    };
    (@object $to:ident $key:tt : [ $($value:tt)* ] $(, $($rest:tt)*)?) => {
        $to.put($key, &$crate::json::json!([ $($value)* ]));
        $($crate::json::json!(@object $to $($rest)*);)?
    };
    (@object $to:ident $key:tt : $value:expr $(, $($rest:tt)*)?) => {
        $to.put($key, &$value);
        $($crate::json::json!(@object $to $($rest)*);)?
    };
    (@list $to:ident) => {};
    (@list $to:ident { $($value:tt)* } $(, $($rest:tt)*)?) => {
        $to.push(&$crate::json::json!({ $($value)* }));
        $($crate::json::json!(@list $to $($rest)*);)?
    };
    (@list $to:ident [ $($value:tt)* ] $(, $($rest:tt)*)?) => {
        $to.push(&$crate::json::json!([ $($value)* ]));
        $($crate::json::json!(@list $to $($rest)*);)?
    };
    (@list $to:ident $value:expr $(, $($rest:tt)*)?) => {
        $to.push(&$value);
        $($crate::json::json!(@list $to $($rest)*);)?
    };
}

pub(crate) use json;

/// An object that grows.
#[derive(Default)]
pub(crate) struct Object(Map<String, Value>);

impl Object {
    /// Adds a field.
    #[inline(never)]
    pub(crate) fn put<T: Serialize + ?Sized>(&mut self, key: &str, field: &T) {
        self.0.insert(key.to_owned(), value(field));
    }

    /// The whole object, as a value.
    pub(crate) fn done(self) -> Value {
        Value::Object(self.0)
    }
}

/// A list that grows, item by item.
#[derive(Default)]
pub(crate) struct List(Vec<Value>);

impl List {
    /// Adds an item.
    #[inline(never)]
    pub(crate) fn push<T: Serialize + ?Sized>(&mut self, item: &T) {
        self.0.push(value(item));
    }

    /// The whole list, as a value.
    pub(crate) fn done(self) -> Value {
        Value::Array(self.0)
    }
}

/// `field` as JSON.
pub(crate) fn value<T: Serialize + ?Sized>(field: &T) -> Value {
    // Only a map with keys other than strings cannot be one.
    to_value(field).unwrap_or_default()
}

#[cfg(test)]
mod tests {

    #[test]
    fn a_value_is_what_serde_json_makes_of_the_same_text() {
        let (none, name, kind): (Option<u8>, _, _) = (None, "a".to_owned(), "k");
        let ours = json!({
            "name": name,
            "none": none,
            "some": Some(1.5),
            kind: { "list": [1, { "x": -2 }, [], name], "empty": {} },
            "known": !name.is_empty() && none.is_none(),
        });
        let theirs = serde_json::json!({
            "name": name,
            "none": none,
            "some": Some(1.5),
            kind: { "list": [1, { "x": -2 }, [], name], "empty": {} },
            "known": !name.is_empty() && none.is_none(),
        });
        assert_eq!(ours, theirs);
        assert_eq!(json!({}), serde_json::json!({}));
    }
}
