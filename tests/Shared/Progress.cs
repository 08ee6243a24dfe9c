using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;

namespace Virtbus.Tests;

/// <summary>
/// The deadline of a wait for a guest. A busy host makes a guest slow by any factor, so no clock says whether it hangs; the processor time that it gets
/// does: one that does nothing for a minute hangs, and so does one that works for three without coming to where it was to come.
/// </summary>
internal sealed class Progress : IDisposable
{
    private static readonly TimeSpan Idle = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan LeastWork = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan MostWork = TimeSpan.FromMinutes(3);

    private readonly CancellationTokenSource _source = new();
    private readonly int _process;
    private readonly TimeSpan _begin;
    private readonly Timer _timer;
    private TimeSpan _seen;
    private long _seenAt = Stopwatch.GetTimestamp();

    /// <param name="process">The process whose work and whose children's is the guest's; of the test program itself only its children's.</param>
    public Progress(int process)
    {
        _process = process;
        _begin = _seen = Work(process);
        _timer = new Timer(_ => Look(), null, TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(1));
    }

    /// <summary>Cancelled when the guest hangs.</summary>
    public CancellationToken Token => _source.Token;

    /// <summary>Why, for the error.</summary>
    public string Why { get; private set; } = "";

    /// <summary>Waits until something is true, while the guest makes progress.</summary>
    /// <exception cref="TimeoutException">It hangs.</exception>
    public void Until(Func<bool> condition, string what)
    {
        while (!condition())
        {
            if (Token.IsCancellationRequested)
                throw new TimeoutException($"{what} did not come: {Why}.");
            Thread.Yield();
        }
    }

    public void Dispose()
    {
        _timer.Dispose();
        _source.Dispose();
    }

    private void Look()
    {
        var work = Work(_process);
        if (work - _seen >= LeastWork)
            (_seen, _seenAt) = (work, Stopwatch.GetTimestamp());
        if (work - _begin > MostWork)
            End($"the guest worked for {(work - _begin).TotalSeconds:0} s and did not come there");
        else if (Stopwatch.GetElapsedTime(_seenAt) > Idle)
            End($"the guest did nothing for {Idle.TotalSeconds:0} s");
    }

    private void End(string why)
    {
        Why = why;
        try
        {
            _source.Cancel();
        }
        catch (ObjectDisposedException)
        {
            // The wait has just ended.
        }
    }

    private static TimeSpan Work(int process) =>
        (process == Environment.ProcessId ? TimeSpan.Zero : Own(process)) + Children(process).Aggregate(TimeSpan.Zero, static (sum, child) => sum + Work(child));

    private static IEnumerable<int> Children(int process)
    {
        try
        {
            return [.. Directory.GetDirectories($"/proc/{process}/task")
                .SelectMany(static task => File.ReadAllText(task + "/children").Split(' ', StringSplitOptions.RemoveEmptyEntries))
                .Select(static id => int.Parse(id, CultureInfo.InvariantCulture))];
        }
        catch (IOException)
        {
            // It has ended.
            return [];
        }
    }

    private static TimeSpan Own(int process)
    {
        try
        {
            return Process.GetProcessById(process).TotalProcessorTime;
        }
        catch (Exception e) when (e is ArgumentException or InvalidOperationException or Win32Exception)
        {
            // It has ended, in the middle of the look too.
            return TimeSpan.Zero;
        }
    }
}
