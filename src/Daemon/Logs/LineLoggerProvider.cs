using System.Text;
using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Daemon.Logs;

/// <summary>
/// Writes one line an event: time, level, category with the event's id, text. It never throws: who logs has something else to do. A line that could
/// not be written is counted, and the count told with the next one that can.
/// </summary>
/// <param name="output">Where lines go; not closed.</param>
/// <param name="time">The clock.</param>
/// <param name="lowest">The lowest level that is written.</param>
internal sealed class LineLoggerProvider(ILogOutput output, TimeProvider time, LogLevel lowest) : ILoggerProvider
{
    private static readonly string[] Words = ["trace", "debug", "info", "warn", "error", "fatal"];
    private readonly Lock _lock = new();
    private long _lost;
    private string _reason = "";

    /// <summary>How many lines could not be written and were not told of yet.</summary>
    public long Lost => Interlocked.Read(ref _lost);

    public ILogger CreateLogger(string categoryName) => new LineLogger(this, categoryName);

    public void Dispose()
    {
    }

    // What is no line of its own is set in, so that no text in it looks like one.
    private static string Details(Exception exception) =>
        string.Concat(exception.ToString().Split('\n').Select(static line => $"    {PrintableText.Escape(line.TrimEnd('\r'))}\n"));

    private string Head(LogLevel level, string category, int id) =>
        $"{time.GetUtcNow():yyyy-MM-ddTHH:mm:ss.fffZ} {Words[(int)level],-5} {category}[{id}] ";

    private void Write(string text)
    {
        lock (_lock)
        {
            if (_lost > 0)
            {
                var notice = Head(LogLevel.Error, "Virtbus.Daemon", 605) + $"{_lost} lines could not be written before this: {_reason}\n";
                if (!output.TryWrite(Encoding.UTF8.GetBytes(notice), out _reason))
                {
                    _lost++;
                    return;
                }

                _lost = 0;
            }

            if (!output.TryWrite(Encoding.UTF8.GetBytes(text), out var reason))
                (_lost, _reason) = (_lost + 1, reason);
        }
    }

    private sealed class LineLogger(LineLoggerProvider provider, string category) : ILogger
    {
        public bool IsEnabled(LogLevel logLevel) => logLevel >= provider.Lowest && logLevel < LogLevel.None;

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            if (!IsEnabled(logLevel))
                return;
            try
            {
                var line = provider.Head(logLevel, category, eventId.Id) + PrintableText.Escape(formatter(state, exception)) + "\n";
                provider.Write(exception is null ? line : line + Details(exception));
            }
            catch (Exception e)
            {
                // No memory, or a text that fails while it is made.
                lock (provider._lock)
                    (provider._lost, provider._reason) = (provider._lost + 1, PrintableText.Escape(e.Message));
            }
        }
    }

    private LogLevel Lowest => lowest;
}
