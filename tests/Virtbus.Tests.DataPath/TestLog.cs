using Microsoft.Extensions.Logging;

namespace Virtbus.Tests.DataPath;

/// <summary>A logger that keeps its lines.</summary>
internal sealed class TestLog : ILogger
{
    private readonly List<(int Id, string Text)> _lines = [];

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel >= LogLevel.Information;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (!IsEnabled(logLevel))
            return;
        lock (_lines)
            _lines.Add((eventId.Id, formatter(state, exception) + exception));
    }

    internal int Count(int id)
    {
        lock (_lines)
            return _lines.Count(line => line.Id == id);
    }

    internal string All()
    {
        lock (_lines)
            return string.Join('\n', _lines.Select(line => line.Text));
    }

    internal void WaitFor(int id, string part) => Deadline.Until(
        () =>
        {
            lock (_lines)
                return _lines.Exists(line => line.Id == id && line.Text.Contains(part, StringComparison.Ordinal));
        },
        $"log line {id} with '{part}' in\n{All()}");
}
