import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/** Cells under the names of the oracle, as in cells.py. */
final class Cells {
  private static final List<String> PERIODS = List.of("daily", "weekly", "monthly", "alltime");
  private static final int[] WINDOW_DAYS = {1, 7, 31, 1_000_000};
  private static final Map<String, String> GROUPINGS =
      Map.of("a", "action", "t", "treatment", "c", "channel");

  private final Map<String, Long> cells = new HashMap<>();
  private final Map<String, Set<String>> groups = new HashMap<>();
  private final Set<String> sample;
  private final int today = Integer.parseInt(Options.get("today"));

  Cells() throws IOException {
    sample = Set.copyOf(Files.readAllLines(Path.of(Options.get("sample"))));
  }

  /** Adds a tile under the key that an event gives it. */
  void addTile(String key, long events) {
    String[] parts = key.split("\\|");
    int day = Integer.parseInt(parts[2]);
    int outcome = Integer.parseInt(parts[3]);
    addTile(GROUPINGS.get(parts[0]), parts[1], day, outcome, events);
  }

  /** Adds the tiles and the distinct actions of a customer. */
  synchronized void addCustomer(String customer, byte[] record) {
    int tilesEnd = CustomerRecord.tilesEnd(record);
    for (int at = CustomerRecord.TILES_AT; at < tilesEnd; at += CustomerRecord.TILE_BYTES) {
      int day = CustomerRecord.u16(record, at);
      addTile("customer", customer, day, record[at + 2], CustomerRecord.u32(record, at + 3));
    }
    if (sample.contains(customer)) {
      addDistinctActions(customer, record, tilesEnd);
    }
  }

  private synchronized void addTile(
      String grouping, String group, int day, int outcome, long events) {
    for (int period = 0; period < WINDOW_DAYS.length; period++) {
      if (day > today - WINDOW_DAYS[period]) {
        String name = grouping + "|" + PERIODS.get(period);
        groups.computeIfAbsent(name, missing -> new HashSet<>()).add(group);
        if (!grouping.equals("customer") || sample.contains(group)) {
          cells.merge(name + "|" + group + "|" + Event.OUTCOMES[outcome], events, Long::sum);
        }
      }
    }
  }

  private void addDistinctActions(String customer, byte[] record, int tilesEnd) {
    int at = tilesEnd;
    while (at < record.length) {
      int dayAt = at + 1 + record[at];
      int day = CustomerRecord.u16(record, dayAt);
      for (int period = 0; period < WINDOW_DAYS.length; period++) {
        if (day > today - WINDOW_DAYS[period]) {
          cells.merge("unique|" + PERIODS.get(period) + "|" + customer, 1L, Long::sum);
        }
      }
      at = dayAt + 2;
    }
  }

  /** Writes the cells as JSON and reports that they are there. */
  void write() throws IOException {
    groups.forEach((name, ids) -> cells.put("groups|" + name, (long) ids.size()));
    String json =
        cells.entrySet().stream()
            .map(cell -> '"' + cell.getKey() + "\":" + cell.getValue())
            .collect(Collectors.joining(",", "{", "}"));
    Files.writeString(Path.of(Options.get("cells")), json);
    Reports.send("ANSWERED");
  }
}
