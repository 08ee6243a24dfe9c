namespace Virtbus.Tests.Trust;

/// <summary>Two of them; what each test leaves is as it was.</summary>
public sealed class VirtioMachines : IAsyncLifetime
{
    private readonly VirtioMachine _first = new(), _second = new();

    internal VirtioMachine First => _first;

    internal VirtioMachine Second => _second;

    public async ValueTask InitializeAsync() => await Task.WhenAll(_first.BeginAsync(), _second.BeginAsync());

    /// <summary>Nothing went wrong inside the daemons.</summary>
    public void CheckLogs()
    {
        _first.Daemon.CheckLog();
        _second.Daemon.CheckLog();
    }

    public async ValueTask DisposeAsync()
    {
        await _first.DisposeAsync();
        await _second.DisposeAsync();
    }
}
