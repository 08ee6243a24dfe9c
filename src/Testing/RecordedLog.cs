using Microsoft.Extensions.Logging;

namespace Virtbus.Testing;

/// <summary>A log that keeps its lines (<c>FabricOptions.LoggerFactory</c>). Safe from any thread.</summary>
/// <param name="least">The lowest level that is written.</param>
public sealed class RecordedLog(LogLevel least = LogLevel.Trace) : ILoggerFactory, ILogger
{
    private readonly Lock _lock = new();
    private readonly List<(int Id, string Text, string Whole)> _lines = [];

    /// <summary>The lines, oldest first, each as <c>Level text</c>.</summary>
    public IReadOnlyList<string> Lines
    {
        get
        {
            lock (_lock)
                return [.. _lines.Select(line => line.Text)];
        }
    }

    /// <summary>All lines as one text, each with the exception that came with it.</summary>
    public string Text
    {
        get
        {
            lock (_lock)
                return string.Join('\n', _lines.Select(line => line.Whole));
        }
    }

    /// <summary>How many lines of an event there are.</summary>
    /// <param name="id">The event's number.</param>
    public int Count(int id)
    {
        lock (_lock)
            return _lines.Count(line => line.Id == id);
    }

    /// <summary>Waits for a line.</summary>
    /// <param name="id">The event's number.</param>
    /// <param name="part">What the line has in it.</param>
    /// <exception cref="TimeoutException">It does not come in time; the error has all lines.</exception>
    public void WaitFor(int id, string part)
    {
        try
        {
            Deadline.Until(() => Has(id, part), $"log line {id} with '{part}'");
        }
        catch (TimeoutException e)
        {
            throw new TimeoutException($"{e.Message} The log is:\n{Text}", e);
        }
    }

    /// <inheritdoc/>
    public ILogger CreateLogger(string categoryName) => this;

    /// <inheritdoc/>
    public void AddProvider(ILoggerProvider provider)
    {
    }

    /// <inheritdoc/>
    public void Dispose()
    {
    }

    /// <inheritdoc/>
    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    /// <inheritdoc/>
    public bool IsEnabled(LogLevel logLevel) => logLevel >= least;

    /// <inheritdoc/>
    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        ArgumentNullException.ThrowIfNull(formatter);
        if (!IsEnabled(logLevel))
            return;
        var text = $"{logLevel} {formatter(state, exception)}";
        var whole = exception is null ? text : $"{text}\n{exception}";
        lock (_lock)
            _lines.Add((eventId.Id, text, whole));
    }

    private bool Has(int id, string part)
    {
        lock (_lock)
            return _lines.Exists(line => line.Id == id && line.Whole.Contains(part, StringComparison.Ordinal));
    }
}
