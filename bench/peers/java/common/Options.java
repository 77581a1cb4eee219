import java.util.HashMap;
import java.util.Map;

/** Arguments of the program: `--name value` pairs, the same for all peers. */
final class Options {
  private static final Map<String, String> VALUES = new HashMap<>();

  /** Number of records in the topic. */
  static long events;

  /** Number of events without copies. */
  static long distinct;

  private Options() {}

  static void parse(String[] arguments) {
    for (int index = 0; index + 1 < arguments.length; index += 2) {
      VALUES.put(arguments[index].substring(2), arguments[index + 1]);
    }
    events = Long.parseLong(get("events"));
    distinct = Long.parseLong(get("distinct"));
  }

  static String get(String name) {
    return VALUES.get(name);
  }
}
