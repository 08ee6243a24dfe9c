using Microsoft.Extensions.Logging;
using Xunit;

namespace Virtbus.Tests;

/// <summary>A logger that keeps its lines.</summary>
internal sealed class TestLog : ILogger, ILoggerFactory
{
    private readonly List<(int Id, string Text)> _lines = [];

    public ILogger CreateLogger(string categoryName) => this;

    public void AddProvider(ILoggerProvider provider)
    {
    }

    public void Dispose()
    {
    }

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

    internal void WaitFor(int id, string part) => Assert.True(
        SpinWait.SpinUntil(
            () =>
            {
                lock (_lines)
                    return _lines.Exists(line => line.Id == id && line.Text.Contains(part, StringComparison.Ordinal));
            },
            TimeSpan.FromSeconds(30)),
        $"Waited 30 s for log line {id} with '{part}' in\n{All()}");
}
