using Microsoft.Extensions.Logging;

namespace Virtbus.Daemon.Logs;

/// <summary>Writes one line an event: time, level, category with the event's id, text.</summary>
/// <param name="output">Where lines go; not closed.</param>
/// <param name="time">The clock.</param>
/// <param name="lowest">The lowest level that is written.</param>
internal sealed class LineLoggerProvider(TextWriter output, TimeProvider time, LogLevel lowest) : ILoggerProvider
{
    private readonly Lock _lock = new();

    public ILogger CreateLogger(string categoryName) => new LineLogger(this, categoryName);

    public void Dispose()
    {
    }

    private void Write(string line)
    {
        lock (_lock)
        {
            output.WriteLine(line);
            output.Flush();
        }
    }

    private sealed class LineLogger(LineLoggerProvider provider, string category) : ILogger
    {
        private static readonly string[] Words = ["trace", "debug", "info", "warn", "error", "fatal"];

        public bool IsEnabled(LogLevel logLevel) => logLevel >= provider.Lowest && logLevel < LogLevel.None;

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            if (!IsEnabled(logLevel))
                return;
            var line = $"{provider.Time.GetUtcNow():yyyy-MM-ddTHH:mm:ss.fffZ} {Words[(int)logLevel],-5} {category}[{eventId.Id}] {formatter(state, exception)}";
            provider.Write(exception is null ? line : $"{line}\n{exception}");
        }
    }

    private LogLevel Lowest => lowest;

    private TimeProvider Time => time;
}
