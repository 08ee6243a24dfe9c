using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace Virtbus.Tests.Core;

/// <summary>Keeps log lines, and whether each came with a stack.</summary>
internal sealed class StackLog : ILoggerFactory, ILogger
{
    private readonly ConcurrentQueue<(string Line, bool HasStack)> _lines = new();

    public IReadOnlyList<(string Line, bool HasStack)> Lines => [.. _lines];

    public ILogger CreateLogger(string categoryName) => this;

    public void AddProvider(ILoggerProvider provider)
    {
    }

    public void Dispose()
    {
    }

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => true;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
        _lines.Enqueue(($"{logLevel} {formatter(state, exception)}", exception is not null));
}
