import java.util.concurrent.atomic.AtomicBoolean;

/** Reports to the bench: lines on standard output, as in programs/reports.py. */
final class Reports {
  private static final AtomicBoolean FIRST = new AtomicBoolean();
  private static final AtomicBoolean HALF = new AtomicBoolean();

  private Reports() {}

  static synchronized void send(String line) {
    System.out.println(line);
    System.out.flush();
  }

  /** Reports the first event, once. */
  static void first() {
    if (!FIRST.get() && FIRST.compareAndSet(false, true)) {
      send("FIRST");
    }
  }

  /** Reports that half of the events are counted, once. */
  static void half() {
    if (!HALF.get() && HALF.compareAndSet(false, true)) {
      send("HALF");
    }
  }
}
